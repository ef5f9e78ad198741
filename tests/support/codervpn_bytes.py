"""Frames of CoderVPN by hand, and both ends after their headers."""

from __future__ import annotations

from ginnel.codervpn.manager_role import ManagerCore, ManagerEvent
from ginnel.codervpn.speaker import Negotiated
from ginnel.codervpn.tunnel_role import TunnelCore, TunnelEvent

SEED_MANAGER = b"codervpn 1.3 manager\n"
SEED_TUNNEL = b"codervpn 1.3 tunnel\n"
# ManagerMessage{rpc{msg_id 1}, start{fd 4, url "u", token "t"}}
START = bytes.fromhex("0000000e 0a020801 22080804 1201751a0174".replace(" ", ""))
# TunnelMessage{rpc{response_to 1}, start{success}}
STARTED = bytes.fromhex("00000008 0a021001 2a020801".replace(" ", ""))
STOP = bytes.fromhex("00000006 0a020802 2a00".replace(" ", ""))
STOPPED = bytes.fromhex("00000008 0a021002 32020801".replace(" ", ""))


def sent(core: ManagerCore | TunnelCore) -> bytes:
    data = b""
    while (part := core.poll_transmit()) is not None:
        data += part
    return data


def tunnel_events(core: TunnelCore) -> list[TunnelEvent]:
    events = []
    while (event := core.poll_event()) is not None:
        events.append(event)
    return events


def manager_events(core: ManagerCore) -> list[ManagerEvent]:
    events = []
    while (event := core.poll_event()) is not None:
        events.append(event)
    return events


def open_tunnel(header: bytes = SEED_MANAGER) -> TunnelCore:
    core = TunnelCore(now=0.0)
    core.handle_bytes(header, now=0.0)
    assert isinstance(tunnel_events(core)[0], Negotiated)
    sent(core)
    return core


def open_manager(header: bytes = SEED_TUNNEL) -> ManagerCore:
    core = ManagerCore(now=0.0)
    core.handle_bytes(header, now=0.0)
    assert isinstance(manager_events(core)[0], Negotiated)
    sent(core)
    return core
