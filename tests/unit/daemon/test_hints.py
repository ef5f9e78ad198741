import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address
from ginnel.daemon.hints import format_hint, parse_hint
from ginnel.discv5.enr import Enr, sign_enr
from ginnel.discv5.keys import node_id_of, public_key_of
from ginnel.discv5.protocol import Contact
from support.members import seed

KEY = seed("a public node").reveal()
PUBLIC = public_key_of(KEY)


def record(**fields: bytes | int) -> Enr:
    return sign_enr(KEY, 1, fields)


def test_a_record_is_a_hint() -> None:
    enr = record(ip=bytes((192, 0, 2, 7)), udp=41640)
    assert parse_hint(f"  {enr.to_text()}\n") == enr


@pytest.mark.parametrize("host", ["192.0.2.7", "[2001:db8::7]", "localhost"])
def test_the_short_form_names_whom_to_ask(host: str) -> None:
    found = parse_hint(f"{PUBLIC.hex()}@{host}:41640")
    assert isinstance(found, Contact)
    assert found.public_key == PUBLIC
    assert found.node_id == node_id_of(PUBLIC)
    assert found.address.port == 41640
    if host != "localhost":
        assert found.address == Address(host.strip("[]"), 41640)


def test_what_a_node_prints_is_understood() -> None:
    four = record(ip=bytes((192, 0, 2, 7)), udp=41640)
    six = record(ip6=bytes.fromhex("20010db8") + bytes(11) + b"\7", udp6=5)
    for enr, address in ((four, four.address()), (six, six.address(ipv6=True))):
        text = format_hint(enr)
        assert text is not None
        found = parse_hint(text)
        assert isinstance(found, Contact)
        assert found.address == address
    assert format_hint(record()) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "KEY-HEX@NAME:PORT"),
        ("192.0.2.7:41640", "KEY-HEX@NAME:PORT"),
        ("enr:-nonsense", "damaged"),
        ("enr:", "damaged"),
        (f"{PUBLIC.hex()}@host", "KEY-HEX@NAME:PORT"),
        (f"{PUBLIC.hex()[2:]}@192.0.2.7:1", "64 hex digits"),
        (f"{'00' * 33}@192.0.2.7:1", "no secp256k1 public key"),
        (f"{PUBLIC.hex()}@no-such-name.invalid:1", "does not resolve"),
        (f"{PUBLIC.hex()}@192.0.2.7:99999", "99999 is no port"),
        (f"{PUBLIC.hex()}@192.0.2.7:0", "0 is no port"),
        (f"{PUBLIC.hex()}@bücher..{'x' * 70}:1", "no host name"),
    ],
)
def test_what_can_not_be_used_says_why(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_hint(text)
