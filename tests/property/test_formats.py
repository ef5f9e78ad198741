"""Hostile bytes never raise anything but what each decoder promises, and round trips hold."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Secret
from ginnel.daemon import channel
from ginnel.mesh import derive, join
from ginnel.mesh.envelope import Opener, decode_message, split_envelope
from ginnel.mesh.invite_book import InviteBook
from ginnel.mesh.membership import Status
from ginnel.mesh.objects import CertificateFields, decode_object, parse_object
from support import formats_decoder as page
from support.formats_vectors import MEMBER, NET, OTHER, PERIOD, envelope, joins
from support.joins import SEALER, AdminSide, attempt
from support.members import NOW

OBJECTS = [NET.network(), NET.admin_object(), NET.cert(MEMBER), NET.epoch()]
JOINS = joins()
ENVELOPES = [envelope(), JOINS["join_request"], *JOINS["join_answer"]]
ADMIN = AdminSide(NET)
INVITE = ADMIN.invite()


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Flip, cut, double or replace bytes of something valid."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 3)):
            case 0 if data:
                data[at] ^= draw(st.integers(1, 255))
            case 1:
                del data[at:]
            case 2:
                data[at:at] = draw(st.binary(max_size=40))
            case _:
                data = data[at:] + data[:at]
    return bytes(data)


hostile_objects = st.one_of(st.binary(max_size=700), mutated(OBJECTS))
hostile_envelopes = st.one_of(st.binary(max_size=1200), mutated(ENVELOPES))


@given(hostile_objects)
def test_objects_are_taken_or_refused(raw: bytes) -> None:
    membership = NET.membership(MEMBER)
    verdict = membership.add_object(raw, unix_now=NOW)
    assert verdict.status is (Status.KNOWN if raw in OBJECTS else Status.REFUSED)
    with contextlib.suppress(RemoteProtocolError):
        parse_object(decode_object(raw))


@given(hostile_envelopes)
def test_envelopes_are_dropped(data: bytes) -> None:
    opener = Opener(NET.membership(MEMBER, OTHER), MEMBER.member_id, [MEMBER.sealing], SEALER)
    opened = opener.open(data, source="x", now=0.0, unix_now=NOW)
    assert (opened is None) == (data != ENVELOPES[0])
    assert sum(opener.drops.values()) == (opened is None)


@given(hostile_envelopes)
def test_signer_and_joiner_drop_what_is_not_theirs(data: bytes) -> None:
    book: InviteBook = ADMIN.book
    assert book.handle_envelope(data, unix_now=NOW).replies == ()
    joiner = attempt(INVITE, "laptop-of-alice")
    joiner.handle_envelope(data, unix_now=NOW)
    assert joiner.granted is None


@given(st.binary(max_size=1200))
def test_decoders_raise_one_kind_of_error(data: bytes) -> None:
    decoders = (
        split_envelope,
        decode_message,
        join.decode_request,
        join.decode_answer,
        lambda text: join.decode_signed_request(text, NET.network_id),
        channel.decode_message,
        derive.unpad,
    )
    for decode in decoders:
        with contextlib.suppress(RemoteProtocolError):
            decode(data)


@given(st.text(max_size=200))
def test_any_text_is_an_invite_or_an_error_for_people(text: str) -> None:
    for word in (text, "ginnel1" + text):
        with contextlib.suppress(join.InviteError):
            join.parse_invite(word, unix_now=NOW)


names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@settings(max_examples=50)
@given(
    name=names,
    groups=st.lists(names, max_size=5),
    routes=st.lists(st.sampled_from([(bytes((10, 1, 0, 0)), 16), (bytes(16), 0)]), max_size=3),
    caps=st.integers(0, 2**16),
)
def test_certificates_come_back(name: str, groups: list, routes: list, caps: int) -> None:
    changes = {"name": name, "groups": tuple(groups), "routes": tuple(routes), "caps": caps}
    raw = NET.cert(MEMBER, **changes)
    parsed = parse_object(decode_object(raw))
    assert isinstance(parsed, CertificateFields)
    for key, value in changes.items():
        assert getattr(parsed, key) == value
    _, items, _ = page.read_object(raw, NET.network_id)
    assert items[5] == name.encode()


@given(st.binary(max_size=900))
def test_padding_comes_off(text: bytes) -> None:
    assert derive.unpad(derive.pad(text)) == text
    assert page.unpad(derive.pad(text)) == text


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**40))
def test_both_readers_derive_the_same_points(secret: bytes, period: int) -> None:
    mine = derive.invite_point(NET.network_id, Secret(secret), period)
    labels = ("join rdv", "join presence", "join tag")
    theirs = page.point(secret, NET.network_id, labels, [period])
    assert (mine.location, mine.tag) == (theirs["location"], theirs["tag"])
    assert PERIOD > 0
