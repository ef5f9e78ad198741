"""A default route, where root's settings allow one: what enters the overlay, and what never does.

The test is the tunnel, from bytes:  gn-test (TUN, default)  manager  lan0 ── lan1, the main default
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_settings
from ginnel.daemon.guard import TUNNEL_MARK, clear_traces
from ginnel.daemon.privileges import FIRST_UID
from support import hostile_tunnel
from support.confined import can_enter_namespaces
from support.machine_state import look
from support.raw_tunnel import Stream, in_namespaces, manager

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
        reason="no user namespaces or no TUN here",
    ),
]
OWN, OWN6 = hostile_tunnel.OWN, hostile_tunnel.OWN6
LAN, LAN6 = "192.0.2.2", "2001:db8:1::2"
ELSEWHERE, ELSEWHERE6 = "198.51.100.9", "2001:db8:9::9"  # beyond the router
LAN_LINES = f"""
link add lan0 type veth peer name lan1
address add {LAN}/24 dev lan0
address add {LAN6}/64 dev lan0 nodad
link set lan0 up addrgenmode none
link set lan1 up addrgenmode none
route add default via 192.0.2.1 dev lan0
route add default via 2001:db8:1::1 dev lan0
"""
ALL = make_settings(
    [f"{OWN}/16", f"{OWN6}/48"],
    ["0.0.0.0/0", "100.64.0.0/16", "::/0", "fd12:3456::/48"],
    mtu=1380,
)
ALL.ipv4_settings.excluded_routes.add(destination="203.0.113.0", mask="255.255.255.0")


def make_lan() -> None:
    subprocess.run(["ip", "-batch", "-"], input=LAN_LINES, text=True, check=True)


def source_to(target: str, *, is_marked: bool = False) -> str:
    """Return the address that packets to a target leave from: it tells by which device."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as opened:
        if is_marked:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, TUNNEL_MARK)
        opened.connect((target, 9))
        return str(opened.getsockname()[0])


def check_ways(*, is_default: bool) -> None:
    elsewhere, elsewhere6 = (OWN, OWN6) if is_default else (LAN, LAN6)
    assert source_to(ELSEWHERE) == elsewhere
    assert source_to(ELSEWHERE6) == elsewhere6
    assert source_to("100.64.9.9") == OWN
    for peer in (ELSEWHERE, "203.0.113.5", "192.0.2.77", ELSEWHERE6, "2001:db8:1::77"):
        expected = LAN6 if ":" in peer else LAN
        assert source_to(peer, is_marked=True) == expected, peer  # the way to endpoints
    assert source_to("192.0.2.77") == LAN  # local networks stay local
    assert source_to("2001:db8:1::77") == LAN6
    assert source_to("203.0.113.5") == LAN  # excluded


def refusal(stream: Stream, settings: pb.NetworkSettingsRequest) -> str:
    answer = stream.ask(settings)
    assert not answer.success
    return answer.error_message


def test_allowed_it_takes_all_but_the_tunnels_own_way_and_local_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GINNEL_TEST_DEFAULT_ROUTE", "1")

    def body() -> None:
        make_lan()
        outside = look()
        with manager(tmp_path) as (stream, _):
            stream.begin()
            strict = Path("/proc/sys/net/ipv4/conf/lan0/rp_filter")
            was = strict.read_text()
            strict.write_text("1")
            before = look()
            assert "rp_filter is strict: `sysctl net.ipv4.conf.lan0" in refusal(stream, ALL)
            assert look() == before
            strict.write_text(was)
            answer = stream.ask(ALL)
            assert answer.success, answer.error_message
            check_ways(is_default=True)
            again = pb.NetworkSettingsRequest.FromString(ALL.SerializeToString())
            del again.ipv4_settings.included_routes[0]
            del again.ipv6_settings.included_routes[0]
            assert stream.ask(again).success  # what it still excludes has no effect
            check_ways(is_default=False)
            assert stream.ask(ALL).success
            check_ways(is_default=True)
        assert look() == outside

    in_namespaces(tmp_path, body)


def test_after_kill_9_the_way_is_free_at_once_and_all_traces_can_be_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GINNEL_TEST_DEFAULT_ROUTE", "1")

    def body() -> None:
        make_lan()
        outside = look()
        with manager(tmp_path) as (stream, _):
            stream.begin()
            assert stream.ask(ALL).success
            assert source_to(ELSEWHERE) == OWN
            os.kill(stream.pid, signal.SIGKILL)
        assert source_to(ELSEWHERE) == LAN
        assert source_to(ELSEWHERE6) == LAN6
        assert look() != outside  # rules and filter wait for the next start, `down` or the service
        clear_traces("gn-test", FIRST_UID + 91)
        assert look() == outside

    in_namespaces(tmp_path, body)


def test_even_then_every_other_case_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GINNEL_TEST_DEFAULT_ROUTE", "1")
    allowed = {f"network_settings.ipv{v}_settings.included_routes.destination" for v in (4, 6)}

    def body() -> None:
        make_lan()
        with manager(tmp_path) as (stream, _):
            stream.begin()
            assert stream.ask(ALL).success
            before = look()
            for name, message in hostile_tunnel.cases().items():
                field, _, what = name.partition(": ")
                if not message.HasField("network_settings") or (
                    field in allowed and what == "everything"
                ):
                    continue
                assert refusal(stream, message.network_settings), name
                assert look() == before, name
            for remote in (ELSEWHERE, "192.0.2.1", ELSEWHERE6):
                swallowed = pb.NetworkSettingsRequest.FromString(ALL.SerializeToString())
                swallowed.tunnel_remote_address = remote
                assert refusal(stream, swallowed).startswith("tunnel_remote_address: ")
                assert look() == before

    in_namespaces(tmp_path, body)


def test_without_roots_word_it_is_refused_by_name(tmp_path: Path) -> None:
    def body() -> None:
        make_lan()
        with manager(tmp_path) as (stream, _):
            stream.begin()
            before = look()
            for route in ("0.0.0.0/0", "::/0"):
                text = refusal(stream, make_settings([], [route], mtu=1280))
                assert f"included_routes: {route} needs `default_route` in root's settings" in text
                assert look() == before

    in_namespaces(tmp_path, body)
