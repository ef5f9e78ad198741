"""Codecs of ginnel-rdv: any bytes, and mutations of good ones, are refused or decoded; no more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import NodeId, Secret
from ginnel.mesh.rendezvous import (
    PushRequest,
    Tokens,
    decode_answer,
    decode_request,
    encode_request,
    make_register,
    open_presence,
)
from ginnel.mesh.storer import Storer
from support import rdv

GOOD = make_register(
    rdv.point(),
    storer=NodeId(bytes(32)),
    registrant=NodeId(b"\1" * 32),
    dkey=Secret(b"d" * 16),
    presence=b"presence" * 20,
)


@given(st.binary(max_size=1300))
def test_any_bytes(data: bytes) -> None:
    for decode in (decode_request, decode_answer, lambda d: open_presence(rdv.point(), d)):
        try:
            decode(data)
        except RemoteProtocolError:
            continue


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_register_is_never_stored(at: int, flip: int) -> None:
    changed = GOOD[:at] + bytes([GOOD[at] ^ flip]) + GOOD[at + 1 :]
    storer = Storer(NodeId(bytes(32)), lambda _t, _c: [], tokens=Tokens(), now=0.0)
    sender = rdv.contact("192.0.2.1")
    sender = type(sender)(NodeId(b"\1" * 32), sender.address, sender.public_key)
    storer.on_talk_received(1, sender, changed, now=0.0)
    assert len(storer) == 0
    storer.on_talk_received(1, sender, GOOD, now=0.0)
    assert len(storer) == 1


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=1088))
def test_push_round_trip(location: bytes, envelope: bytes) -> None:
    request = PushRequest(NodeId(location), envelope)
    assert decode_request(encode_request(request)) == request
