"""WireGuard's configuration protocol: requests, what they change, answers."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginnel.base.dataplane import PeerStats
from ginnel.base.types import Address
from ginnel.engine.uapi import (
    Change,
    Configuration,
    UapiError,
    format_error,
    format_get,
    parse_set,
)

A, B, KEY = "aa" * 32, "bb" * 32, "cc" * 32
ALL = [
    f"private_key={KEY}",
    "listen_port=51820",
    "fwmark=7",
    "replace_peers=true",
    f"public_key={A}",
    f"preshared_key={KEY}",
    "protocol_version=1",
    "endpoint=192.0.2.1:5",
    "persistent_keepalive_interval=25",
    "replace_allowed_ips=true",
    "allowed_ip=10.0.0.1/32",
    "allowed_ip=fd00::/64",
    f"public_key={B}",
    "endpoint=[2001:db8::1]:6",
]


def configured(*requests: list[str]) -> Configuration:
    configuration = Configuration()
    for lines in requests:
        configuration.apply(parse_set(lines))
    return configuration


def test_all_keys_are_set_and_read_back() -> None:
    configuration = configured(ALL)
    stats = PeerStats(bytes.fromhex(A), Address("192.0.2.9", 7), 11, 12, 1.5, 3.0)
    assert format_get(configuration, {stats.public_key: stats}).split("\n") == [
        f"private_key={KEY}",
        "listen_port=51820",
        "fwmark=7",
        f"public_key={A}",
        f"preshared_key={KEY}",
        "protocol_version=1",
        "endpoint=192.0.2.9:7",
        "last_handshake_time_sec=1",
        "last_handshake_time_nsec=500000000",
        "tx_bytes=12",
        "rx_bytes=11",
        "persistent_keepalive_interval=25",
        "allowed_ip=10.0.0.1/32",
        "allowed_ip=fd00::/64",
        f"public_key={B}",
        f"preshared_key={'00' * 32}",
        "protocol_version=1",
        "endpoint=[2001:db8::1]:6",
        "last_handshake_time_sec=0",
        "last_handshake_time_nsec=0",
        "tx_bytes=0",
        "rx_bytes=0",
        "persistent_keepalive_interval=0",
        "errno=0",
        "",
        "",
    ]


def test_zero_keys_remove() -> None:
    none = "00" * 32
    configuration = configured(
        ALL, [f"private_key={none}", f"public_key={A}", f"preshared_key={none}"]
    )
    assert configuration.private_key is None
    assert configuration.peers[bytes.fromhex(A)].preshared_key is None
    assert configuration.peers[bytes.fromhex(A)].keepalive_s == 25  # what is not named stays


def test_peers_are_removed_updated_only_and_replaced() -> None:
    configuration = configured(ALL)
    change = parse_set([f"public_key={A}", "remove=true", f"public_key={KEY}", "update_only=true"])
    assert configuration.apply(change) == [bytes.fromhex(A), bytes.fromhex(KEY)]
    assert list(configuration.peers) == [bytes.fromhex(B)]
    touched = configuration.apply(parse_set(["replace_peers=true", f"public_key={A}"]))
    assert touched == [bytes.fromhex(B), bytes.fromhex(A)]
    assert list(configuration.peers) == [bytes.fromhex(A)]


def test_the_last_to_claim_a_prefix_has_it() -> None:
    configuration = configured(ALL)
    touched = configuration.apply(parse_set([f"public_key={B}", "allowed_ip=10.0.0.1"]))
    assert touched == [bytes.fromhex(A), bytes.fromhex(B)]
    first, second = configuration.peers.values()
    assert (list(first.allowed_ips), list(second.allowed_ips)) == (["fd00::/64"], ["10.0.0.1/32"])
    configuration.apply(parse_set([f"public_key={B}", "allowed_ip=-10.0.0.1/32"]))
    assert not second.allowed_ips


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (["private_key=12"], errno.EINVAL),
        (["listen_port=65536"], errno.EINVAL),
        (["listen_port=-1"], errno.EINVAL),
        (["fwmark=4294967296"], errno.EINVAL),
        (["replace_peers=false"], errno.EINVAL),
        (["endpoint=192.0.2.1:5"], errno.EINVAL),  # of no peer
        (["nonsense"], errno.EPROTO),
        (["public_key="], errno.EINVAL),
        ([f"public_key={A}", "private_key=" + KEY], errno.EINVAL),
        ([f"public_key={A}", "endpoint=example.org:5"], errno.EINVAL),
        ([f"public_key={A}", "endpoint=192.0.2.1"], errno.EINVAL),
        ([f"public_key={A}", "allowed_ip=10.0.0.0/33"], errno.EINVAL),
        ([f"public_key={A}", "persistent_keepalive_interval=x"], errno.EINVAL),
        ([f"public_key={A}", "protocol_version=2"], errno.EINVAL),
    ],
)
def test_wrong_lines_are_refused(lines: list[str], number: int) -> None:
    with pytest.raises(UapiError) as caught:
        parse_set(lines)
    assert caught.value.number == number
    assert KEY not in str(caught.value)
    assert format_error(number) == f"errno=-{number}\n\n"


LINES = st.lists(
    st.sampled_from(ALL) | st.text(max_size=40) | st.sampled_from(["remove=true", "allowed_ip=::"])
)


@given(LINES)
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    configuration = configured(ALL)
    try:
        change = parse_set(lines)
    except UapiError:
        return
    assert isinstance(change, Change)
    configuration.apply(change)
    owners = [prefix for peer in configuration.peers.values() for prefix in peer.allowed_ips]
    assert len(owners) == len(set(owners))
    assert format_get(configuration, {}).endswith("errno=0\n\n")
