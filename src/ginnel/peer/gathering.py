"""CORE: a connection that asks STUN and TURN servers itself, on the port that it shares with them.

`aio.Conn` runs it; a mesh gathers once for all its connections instead. Names of servers are
resolved and connections to them are made by others. WireGuard's packets that come through a relay
are told (`RelayedData`), those for one are taken by `send_relayed`: whoever proxies joins both with
the data plane (`engine.relayed`).

Source: seed 000 (StunTurn, UpdateStunTurn, the proxy of a TURN connection).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable, earliest
from ginnel.base.errors import UsageError
from ginnel.base.links import LinkCommand, LinkEvent
from ginnel.base.servers import Server
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import Candidate, CandidateKind
from ginnel.ice.events import AgentConfig
from ginnel.ice.gather import gather_candidates
from ginnel.ice.gatherer import Gatherer, RelayedDatagram, RelayRefused
from ginnel.ice.settings import IceSettings, NetworkType
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import AddressesWanted, ConnConfig, ConnEvent
from ginnel.peer.timers import ADDRESSES_AGAIN


@dataclass(frozen=True, slots=True)
class RelayedData:
    """A packet that is not ICE's came from `peer` to our address at a relay."""

    relayed: Address
    peer: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class TurnCame:
    """It is the turn of the connection to this peer to connect (`turns`): wake it."""

    key: bytes


GatheringEvent: TypeAlias = ConnEvent | LinkCommand | RelayedData | TurnCame


class GatheringConn:
    """One open of a connection with its servers; see the module."""

    def __init__(self, conn: ConnCore, *, random_bytes: RandomBytes, rng: Rng) -> None:
        self._conn = conn
        self._settings = settings_of(conn.config)
        self._gatherer = Gatherer(self._settings, random_bytes=random_bytes, rng=rng)
        self._bases: tuple[Address, ...] = ()
        self._told: tuple[Candidate, ...] = ()
        self._symmetric = False
        self._timers: TimerTable[str] = TimerTable()
        self._events: deque[RelayedData | AddressesWanted] = deque()

    @property
    def failures(self) -> dict[str, str]:
        """Return the servers that gave nothing, and why, in words."""
        return dict(self._gatherer.failures)

    def set_addresses(
        self,
        ips: Sequence[str],
        told: Sequence[Candidate],
        *,
        now: float,
        symmetric: bool = False,
    ) -> None:
        """Tell this machine's IPs, and candidates that the caller knows, as they are now.

        Those of an IP version that is switched off are left out.
        While there are none `AddressesWanted` asks again.
        """
        port = self._conn.config.local_wg_port
        self._bases = tuple(Address(ip, port) for ip in self._settings.allowed_ips(ips))
        self._told = tuple(one for one in told if self._settings.allowed_ips([one.address.ip]))
        self._symmetric = symmetric
        self._timers.stop("addresses")
        if not self._bases and not self._told:
            self._timers.set("addresses", now + ADDRESSES_AGAIN)
        self._gatherer.start(self._bases, now=now)
        self._settle(now, is_changed=True)

    def add_server(self, server: Server, addresses: Sequence[Address], *, now: float) -> None:
        """Use a server whose name resolved to these addresses, or did not."""
        self._gatherer.add_server(server, addresses, now=now)
        self._settle(now)

    def send_relayed(self, transmit: Transmit, *, now: float) -> bool:
        """Send from our address at a relay (`relayed_from`); return whether there is one."""
        return self._gatherer.send(transmit, now=now)

    def on_link(self, event: LinkEvent, *, now: float) -> None:
        """Take what became of a connection to a TURN server."""
        self._gatherer.on_link(event, now=now)
        self._settle(now)

    def close(self, *, now: float) -> None:
        """Give our addresses at relays back."""
        self._gatherer.close(now=now)

    # The five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram of the port that is not WireGuard's; see `base.core.Core`."""
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            if not self._gatherer.handle_channel_data(data, source, now=now):
                self._conn.handle_datagram(data, source, now=now, local_ip=local_ip)
        else:
            if not self._gatherer.handle_message(message, source, now=now):
                self._conn.handle_message(message, source, now=now, local_ip=local_ip)
        self._settle(now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        self._gatherer.handle_timeout(now=now)
        self._conn.handle_timeout(now=now)
        if any(True for _ in self._timers.expire(now)):
            self._events.append(AddressesWanted())
        self._settle(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None; `relayed_from` is for `send_relayed`."""
        return self._gatherer.poll_transmit() or self._conn.poll_transmit()

    def poll_event(self) -> GatheringEvent | None:
        """Return the next event or command for connections, or None."""
        link = self._gatherer.poll_link()
        if link is not None:
            return link
        event = self._events.popleft() if self._events else self._conn.poll_event()
        if event is None and (called := self._conn.config.turns.poll_called()) is not None:
            return TurnCame(called)
        return event

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        deadlines = self._gatherer.poll_deadline(), self._conn.poll_deadline()
        return earliest(self._timers.deadline(), *deadlines)

    # Inside

    def _settle(self, now: float, *, is_changed: bool = False) -> None:
        while (event := self._gatherer.poll_event()) is not None:
            if isinstance(event, RelayedDatagram):
                self._on_relayed(event, now)
            elif isinstance(event, RelayRefused):
                self._conn.on_relay_refused(event.relayed, event.peer, event.reason, now=now)
            else:
                is_changed = True
        if is_changed:
            candidates = self._candidates()
            self._conn.set_local_candidates(candidates, now=now, symmetric=self._symmetric)

    def _on_relayed(self, event: RelayedDatagram, now: float) -> None:
        try:
            message = stun.decode_message(event.data)
        except stun.StunError:
            self._events.append(RelayedData(event.relayed, event.peer, event.data))
        else:
            self._conn.handle_message(message, event.peer, now=now, relayed=event.relayed)

    def _candidates(self) -> list[Candidate]:
        """Return ours as they are now: what servers showed of an address that is gone is not."""
        config = self._conn.config
        outer_ips = self._settings.allowed_ips(config.nat_external_ips)
        outer = [Address(ip, config.local_wg_port) for ip in outer_ips]
        ips = [base.ip for base in self._bases]
        found = gather_candidates(ips, config.local_wg_port, outer)
        for one in self._gatherer.candidates:
            is_there = one.kind is not CandidateKind.HOST and (
                one.is_relayed or one.base in self._bases
            )
            if is_there and all(one.address != other.address for other in found):
                found.append(one)
        return [*found, *(one for one in self._told if one not in found)]


def settings_of(config: ConnConfig) -> IceSettings:
    """Return what a connection's configuration says of gathering.

    Raises:
        UsageError: a URL of another form (the text shows no password), or no port to ask from.
    """
    shared = {item.name: getattr(config.ice, item.name) for item in fields(AgentConfig)}
    networks = (NetworkType.UDP4,) if config.disable_ipv6_discovery else tuple(NetworkType)
    settings = IceSettings(**shared, network_types=networks, urls=config.stun_turn)
    if settings.servers and not config.knows_port:
        raise UsageError("stun_turn: set local_wg_port, and is_muxed; servers see that port")
    return settings
