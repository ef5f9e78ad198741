"""Rates and bans."""

from __future__ import annotations

from ginnel.base.types import NodeId
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.guard import Guard

NODE = NodeId(b"\x01" * 32)
OTHER = NodeId(b"\x02" * 32)


def test_a_source_has_a_rate_and_its_subnet_a_greater_one() -> None:
    guard = Guard(DiscoveryConfig(packet_rate=1, packet_burst=3, subnet_factor=2))
    assert [guard.may_send("203.0.1.1", 0.0) for _ in range(4)] == [True, True, True, False]
    assert [guard.may_send("203.0.1.2", 0.0) for _ in range(4)] == [True, True, True, False]
    assert not guard.may_send("203.0.1.3", 0.0)
    assert guard.may_send("203.0.2.1", 0.0)
    assert guard.may_send("203.0.1.1", 2.0)


def test_each_kind_has_its_own_rate() -> None:
    guard = Guard(DiscoveryConfig(whoareyou_burst=1, request_burst=2))
    assert [guard.may_be_challenged("203.0.1.1", 0.0) for _ in range(2)] == [True, False]
    assert [guard.may_ask("203.0.1.1", 0.0) for _ in range(3)] == [True, True, False]


def test_private_sources_are_never_limited_nor_banned() -> None:
    config = DiscoveryConfig(packet_burst=1, whoareyou_burst=1, request_burst=1, ban_strikes=1)
    guard = Guard(config)
    for ip in ("127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd00::1", "100.64.0.1"):
        for _ in range(5):
            assert guard.may_send(ip, 0.0)
            assert guard.may_be_challenged(ip, 0.0)
            assert guard.may_ask(ip, 0.0)
            assert not guard.on_violation(NODE, ip, 0.0)
    assert not guard.is_banned(NODE, 0.0)


def test_bans_come_with_violations_and_end() -> None:
    guard = Guard(DiscoveryConfig(ban_strikes=3, ban_time=100))
    assert [guard.on_violation(NODE, "203.0.1.1", at) for at in (0, 1, 2)] == [False, False, True]
    assert guard.is_banned(NODE, 3)
    assert guard.is_banned(NODE, 101.9)
    assert not guard.is_banned(OTHER, 3)
    assert not guard.is_banned(NODE, 102)


def test_one_bad_node_does_not_ban_those_behind_the_same_nat() -> None:
    guard = Guard(DiscoveryConfig(ban_strikes=5, ban_ip_factor=8, ban_time=100))
    for at in range(1000):  # it comes back after each ban
        if not guard.is_banned(NODE, at):
            guard.on_violation(NODE, "203.0.1.1", at)
        assert not guard.is_banned("203.0.1.1", at)


def test_an_ip_with_ever_new_bad_nodes_is_banned() -> None:
    guard = Guard(DiscoveryConfig(ban_strikes=5, ban_ip_factor=2, ban_time=100))
    for number in range(9):
        assert not guard.on_violation(NodeId(bytes([number]) * 32), "203.0.1.1", number)
    assert not guard.is_banned("203.0.1.1", 9)
    assert guard.on_violation(OTHER, "203.0.1.1", 9)
    assert guard.is_banned("203.0.1.1", 108.9)
    assert not guard.is_banned("203.0.1.2", 10)
    assert not guard.is_banned(OTHER, 10)
    assert not guard.is_banned("203.0.1.1", 109)


def test_violations_long_apart_do_not_add_up() -> None:
    guard = Guard(DiscoveryConfig(ban_strikes=2, ban_time=100))
    assert not guard.on_violation(NODE, "203.0.1.1", 0)
    assert not guard.on_violation(NODE, "203.0.1.1", 150)
    assert guard.on_violation(NODE, "203.0.1.1", 160)
    assert not guard.is_banned(OTHER, 161)


def test_bans_can_be_off() -> None:
    guard = Guard(DiscoveryConfig(ban_strikes=0))
    assert not any(guard.on_violation(NODE, "203.0.1.1", 0) for _ in range(50))


def test_offenders_are_bounded() -> None:
    guard = Guard(DiscoveryConfig(ban_strikes=1, ban_time=100))
    for number in range(3000):
        guard.on_violation(NodeId(number.to_bytes(32, "big")), f"203.{number // 250}.0.1", 0)
    banned = [guard.is_banned(NodeId(n.to_bytes(32, "big")), 1) for n in range(3000)]
    assert 400 < sum(banned) <= 1024
