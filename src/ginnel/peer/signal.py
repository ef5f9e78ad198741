"""What two peers tell each other to connect: offers, answers, candidates.

The codec makes the payloads of the sealed envelopes of kinds `offer`, `answer` and `candidates`.
Payloads are small, because an envelope is: what doesn't fit into an offer is sent afterwards.

A Rosenpass public key (half a megabyte) never fits into an envelope: in a sealed offer stands its
hash; who signals by other means (seed 000's handlers) may carry the key itself.

Invariant: `decode_x(encode_x(value)) == value` for every value that `fit_candidates` has bounded.

Source: seed 000 (OfferAnswer); FORMATS, "Messages" (session, psk_id).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Address, make_address
from ginnel.ice.candidate import (
    MAX_PRIORITY,
    MAX_REMOTE_CANDIDATES,
    Candidate,
    CandidateKind,
    make_remote,
)
from ginnel.ice.reasons import NatKind

SESSION_SIZE = 16  # bytes
PSK_ID_SIZE = 8  # bytes; zeros name the base key
MAX_CANDIDATES = MAX_REMOTE_CANDIDATES
MAX_CANDIDATE_BYTES = 360  # of one payload's candidates: 19 IPv4 or 11 IPv6 ones
MAX_PAYLOAD = 560  # bytes; an envelope of 1088 has about 600 for its payload
MAX_FOUNDATION_BYTES = 8  # ours have 6
MAX_VERSION = 32  # bytes
MAX_ROSENPASS_KEY = 32  # bytes in a sealed offer: the key's hash
MAX_ROSENPASS_ADDR = 47  # characters: an IPv6 address in brackets with its port
DEFAULT_PACING_MS, MAX_PACING_MS = 50, 1000  # RFC 8445 section 14.2; ours to bound the wait
MIN_UFRAG, MAX_UFRAG = 4, 32  # characters; RFC 8839 section 5.4 allows 256
MIN_PWD, MAX_PWD = 22, 64


@dataclass(frozen=True, slots=True)
class OfferAnswer:
    """An offer, or the answer to one; `complete`: all candidates known now are in it."""

    session: bytes
    ufrag: str
    pwd: str
    candidates: tuple[Candidate, ...] = ()
    psk_id: bytes = bytes(PSK_ID_SIZE)
    version: str = ""
    nat: NatKind = NatKind.UNKNOWN
    complete: bool = True
    wg_listen_port: int = 0  # 0: not told, WireGuard's usual one
    rosenpass_pub_key: bytes = b""  # empty: no Rosenpass
    rosenpass_addr: str = ""  # IP:port of the Rosenpass server
    pacing_ms: int = DEFAULT_PACING_MS  # time between checks that the sender proposes

    def __repr__(self) -> str:
        return f"OfferAnswer(session={self.session.hex()}, candidates={len(self.candidates)})"


@dataclass(frozen=True, slots=True)
class ModeMessage:
    """What a peer tells of the path that it has chosen."""

    direct: bool


class Feature(IntEnum):
    """What a peer may say that it understands (seed 000's FeaturesSupport); the wire's numbers."""

    DIRECT_CHECK = 1  # takes ModeMessage


def parse_features(numbers: Iterable[int]) -> tuple[Feature, ...]:
    """Return the features that we know among those that a peer named, in their order."""
    named = set(numbers)
    return tuple(feature for feature in Feature if feature in named)


def encode_offer(offer: OfferAnswer) -> bytes:
    """Encode an offer or an answer.

    Shape: [session 16, ufrag, pwd, candidates, psk_id 8, version, nat, complete, wg_listen_port,
    rosenpass_pub_key (at most 32), rosenpass_addr, pacing_ms]; the last four may be missing.

    Raises:
        UsageError: too large; choose candidates by `fit_candidates`.
    """
    if len(offer.rosenpass_pub_key) > MAX_ROSENPASS_KEY:
        raise UsageError("a Rosenpass key is too large for an envelope; signal its hash")
    return _bounded(
        rlp.encode(
            [
                offer.session,
                offer.ufrag,
                offer.pwd,
                [_encode_candidate(candidate) for candidate in offer.candidates],
                offer.psk_id,
                offer.version,
                int(offer.nat),
                int(offer.complete),
                offer.wg_listen_port,
                offer.rosenpass_pub_key,
                offer.rosenpass_addr,
                offer.pacing_ms,
            ]
        )
    )


def decode_offer(payload: bytes) -> OfferAnswer:
    """Decode an offer or an answer; further items are left for later versions.

    Raises:
        RemoteProtocolError: malformed, or beyond a limit.
    """
    items = rlp.as_list(_decode(payload), at_least=8)
    return OfferAnswer(
        session=rlp.as_bytes(items[0], SESSION_SIZE),
        ufrag=_ice_text(items[1], MIN_UFRAG, MAX_UFRAG),
        pwd=_ice_text(items[2], MIN_PWD, MAX_PWD),
        candidates=_decode_candidates(items[3]),
        psk_id=rlp.as_bytes(items[4], PSK_ID_SIZE),
        version=rlp.as_text(items[5], MAX_VERSION),
        nat=_decode_nat(items[6]),
        complete=bool(rlp.as_int(items[7], 1)),
        wg_listen_port=rlp.as_int(items[8], 65535) if len(items) > 8 else 0,
        rosenpass_pub_key=_bounded_bytes(items[9], MAX_ROSENPASS_KEY) if len(items) > 9 else b"",
        rosenpass_addr=rlp.as_text(items[10], MAX_ROSENPASS_ADDR) if len(items) > 10 else "",
        pacing_ms=rlp.as_int(items[11], MAX_PACING_MS) if len(items) > 11 else DEFAULT_PACING_MS,
    )


def encode_candidates(
    session: bytes, candidates: Sequence[Candidate], nat: NatKind = NatKind.UNKNOWN
) -> bytes:
    """Encode later candidates of a session and the NAT as it is known now.

    Shape: [session 16, candidates, nat].
    """
    return _bounded(rlp.encode([session, [_encode_candidate(c) for c in candidates], int(nat)]))


def decode_candidates(payload: bytes) -> tuple[bytes, tuple[Candidate, ...], NatKind]:
    """Decode later candidates: their session, the candidates, the NAT of who sent them.

    Raises:
        RemoteProtocolError: malformed, or beyond a limit.
    """
    items = rlp.as_list(_decode(payload), at_least=2)
    nat = _decode_nat(items[2]) if len(items) > 2 else NatKind.UNKNOWN
    return rlp.as_bytes(items[0], SESSION_SIZE), _decode_candidates(items[1]), nat


def fit_candidates(
    candidates: Sequence[Candidate],
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """Split candidates into the best that fit into one payload, and the rest."""
    ordered = sorted(candidates, key=lambda c: -c.priority)
    size = 0
    for index, candidate in enumerate(ordered):
        size += len(rlp.encode(_encode_candidate(candidate)))
        if size > MAX_CANDIDATE_BYTES or index >= MAX_CANDIDATES:
            return tuple(ordered[:index]), tuple(ordered[index:])
    return tuple(ordered), ()


def _encode_candidate(candidate: Candidate) -> list[rlp.Encodable]:
    address = candidate.address
    packed = address.packed_ip + address.port.to_bytes(2, "big")
    return [int(candidate.kind), packed, candidate.priority, candidate.foundation]


def _decode_nat(item: rlp.Rlp) -> NatKind:
    nat = rlp.as_int(item, 255)
    return NatKind(nat) if nat <= max(NatKind) else NatKind.UNKNOWN


def _decode_candidates(item: rlp.Rlp) -> tuple[Candidate, ...]:
    items = rlp.as_list(item)
    if len(items) > MAX_CANDIDATES:
        raise RemoteProtocolError(f"{len(items)} candidates")
    return tuple(_decode_candidate(candidate) for candidate in items)


def _decode_candidate(item: rlp.Rlp) -> Candidate:
    kind, packed, priority, foundation = rlp.as_list(item, 4)
    number = rlp.as_int(kind, 255)
    if number not in (CandidateKind.HOST, CandidateKind.SRFLX, CandidateKind.RELAY):
        raise RemoteProtocolError(f"candidate kind {number}")
    return make_remote(
        CandidateKind(number),
        _decode_address(packed),
        rlp.as_int(priority, MAX_PRIORITY),
        rlp.as_text(foundation, MAX_FOUNDATION_BYTES),
    )


def _decode_address(item: rlp.Rlp) -> Address:
    packed = rlp.as_bytes(item)
    if len(packed) not in (6, 18):
        raise RemoteProtocolError(f"an address of {len(packed)} bytes")
    return make_address(packed[:-2], int.from_bytes(packed[-2:], "big"))


def _bounded_bytes(item: rlp.Rlp, limit: int) -> bytes:
    data = rlp.as_bytes(item)
    if len(data) > limit:
        raise RemoteProtocolError(f"{len(data)} bytes where at most {limit} may be")
    return data


def _ice_text(item: rlp.Rlp, minimum: int, maximum: int) -> str:
    text = rlp.as_text(item, maximum)
    if (
        len(text) < minimum
        or not text.isascii()
        or not text.replace("+", "").replace("/", "").isalnum()
    ):
        raise RemoteProtocolError("ICE credentials of another form")
    return text


def _decode(payload: bytes) -> rlp.Rlp:
    if len(payload) > MAX_PAYLOAD:
        raise RemoteProtocolError(f"a payload of {len(payload)} bytes")
    return rlp.decode(payload)


def _bounded(payload: bytes) -> bytes:
    if len(payload) > MAX_PAYLOAD:
        raise UsageError(f"a payload of {len(payload)} bytes; choose by fit_candidates")
    return payload
