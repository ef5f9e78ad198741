"""Addresses in their one canonical form; secrets that don't show."""

import copy
import pickle

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, Deadline, Secret, make_address, parse_address


@pytest.mark.parametrize(
    ("ip", "canonical"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        (bytes((192, 0, 2, 1)), "192.0.2.1"),
        (bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 1)), "192.0.2.1"),
    ],
)
def test_make_address_is_canonical(ip: str | bytes, canonical: str) -> None:
    assert make_address(ip, 7) == Address(canonical, 7)


@pytest.mark.parametrize(
    ("ip", "port"), [("192.0.2.1", -1), ("192.0.2.1", 65536), ("host", 1), ("192.0.2.256", 1)]
)
def test_make_address_refuses(ip: str, port: int) -> None:
    with pytest.raises(UsageError):
        make_address(ip, port)


def test_text_form_round_trips() -> None:
    for text in ("192.0.2.1:7", "[2001:db8::1]:65535"):
        assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["192.0.2.1", "192.0.2.1:", "192.0.2.1:x", "2001:db8::1:7", ":7", "192.0.2.1:٣", ""]
)
def test_parse_address_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_packed_ip_and_version() -> None:
    assert Address("192.0.2.1", 1).packed_ip == bytes((192, 0, 2, 1))
    assert len(Address("::1", 1).packed_ip) == 16
    assert [Address(ip, 1).is_ipv6 for ip in ("192.0.2.1", "::1")] == [False, True]


def test_deadlines_sort_by_time() -> None:
    assert min(Deadline(2.0, "a"), Deadline(1.0, "b")).reason == "b"


def test_secret_does_not_show() -> None:
    secret = Secret(b"hunter2hunter2")
    assert secret.reveal() == b"hunter2hunter2"
    assert {repr(secret), str(secret), f"{secret}", f"{[secret]}"} == {"<secret>", "[<secret>]"}
    assert secret == Secret(b"hunter2hunter2")
    assert secret != Secret(b"other")
    assert len({secret, Secret(b"hunter2hunter2")}) == 1
    pickled = pickle.dumps(secret)
    assert b"hunter2" not in pickled
    assert pickle.loads(pickled).reveal() == b"<secret>"
    assert copy.copy(secret) == copy.deepcopy([secret])[0] == secret
