"""Who is in: what members tell each other about objects, and what they ask for.

Payloads of the kinds objects, fetch and grant, and the state of the exchange with one peer:
digest, then the list, then one fetch for each certificate that is missing.

Shape: objects = [digest, [first 8 bytes of each hash], [whole objects]]; the third item is left
out if empty. It carries the sender's own certificate to who may not know it, and what was fetched.
fetch = the object's hash, or its first 8 bytes as listed. grant = [epoch object, E].

Source: docs/formats.md, "Roster", "Epochs".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ginnel.base import rlp
from ginnel.base.types import Secret
from ginnel.mesh.membership import Membership
from ginnel.mesh.objects import MAX_OBJECT

MAX_LISTED = 40  # hashes in one message (Roster)
MAX_LISTS = 5  # lists sent at once: a roster of 200
PREFIX_SIZE = 8  # bytes of a hash in a list (Roster)
MAX_PAYLOAD = 700  # bytes: what an envelope of 1088 leaves after headers, ids, signature, padding
MAX_INLINE = 4  # whole objects accepted in one message
MAX_FETCHES = 40  # asked of one peer and not yet answered
FETCH_AGAIN_S = 5.0  # seconds until the same object is asked for again
ASKED_KEPT_S = 300.0  # seconds an object that does not come is waited for
SYNC_INTERVAL_S = 600.0  # seconds between digests to a connected peer (Roster)
LIST_AGAIN_S = 2.0  # seconds between two lists sent to one peer


@dataclass(frozen=True, slots=True)
class ObjectsPayload:
    """What one member holds: digest, hashes, some objects whole."""

    digest: bytes
    listed: tuple[bytes, ...] = ()
    objects: tuple[bytes, ...] = ()


def encode_objects(payload: ObjectsPayload) -> bytes:
    """Encode, leaving out whole objects that don't fit."""
    chosen: list[bytes] = []
    for raw in payload.objects[:MAX_INLINE]:
        if len(_encode(payload, [*chosen, raw])) <= MAX_PAYLOAD:
            chosen.append(raw)
    return _encode(payload, chosen)


def _encode(payload: ObjectsPayload, objects: Sequence[bytes]) -> bytes:
    items: list[rlp.Encodable] = [payload.digest, list(payload.listed[:MAX_LISTED])]
    if objects:
        items.append(list(objects))
    return rlp.encode(items)


def decode_objects(data: bytes) -> ObjectsPayload:
    """Decode.

    Raises:
        RemoteProtocolError: malformed, or more items than allowed.
    """
    items = rlp.as_list(rlp.decode(data), at_least=2)
    listed = rlp.as_list(items[1])
    objects = rlp.as_list(items[2]) if len(items) > 2 else []
    if len(listed) > MAX_LISTED or len(objects) > MAX_INLINE:
        raise rlp.RlpError("too many objects in one message")
    return ObjectsPayload(
        rlp.as_bytes(items[0], 32),
        tuple(rlp.as_bytes(item, PREFIX_SIZE) for item in listed),
        tuple(rlp.as_bytes(item, maximum=MAX_OBJECT) for item in objects),
    )


def encode_grant(epoch_object: bytes, secret: Secret) -> bytes:
    """Encode a grant of an epoch."""
    return rlp.encode([epoch_object, secret.reveal()])


def decode_grant(data: bytes) -> tuple[bytes, Secret]:
    """Return the epoch object and its secret.

    Raises:
        RemoteProtocolError: malformed.
    """
    items = rlp.as_list(rlp.decode(data), at_least=2)
    return rlp.as_bytes(items[0], maximum=MAX_OBJECT), Secret(rlp.as_bytes(items[1], 32))


def decode_fetch(data: bytes) -> bytes:
    """Return the hash, or its first 8 bytes, of the object that is asked for.

    Raises:
        RemoteProtocolError: of another size.
    """
    if len(data) not in (PREFIX_SIZE, 32):
        raise rlp.RlpError("a fetch of something that is no hash")
    return data


def find_object(membership: Membership, prefix: bytes) -> bytes | None:
    """Return the current certificate whose hash starts so, or any object of that very hash."""
    for digest in membership.roster_hashes():
        if digest.startswith(prefix):
            return membership.object_by_hash(digest)
    return membership.object_by_hash(prefix) if len(prefix) == 32 else None


@dataclass(slots=True)
class RosterSync:
    """The exchange with one peer: what was asked, and when we told it what."""

    told_digest: bytes = b""
    told_at: float = float("-inf")
    listed_at: float = float("-inf")
    list_from: int = 0  # where the next list begins, if not all hashes fit
    same_digest: bool = False  # the peer's last digest was ours
    asked: dict[bytes, float] = field(default_factory=dict)

    def hello(self, membership: Membership, own: Sequence[bytes], *, now: float) -> bytes:
        """Return our digest, with our own certificate in case the peer doesn't know us yet."""
        self.told_digest = membership.roster_digest()
        self.told_at = now
        return encode_objects(ObjectsPayload(self.told_digest, (), tuple(own)))

    def is_due(self, membership: Membership, *, now: float) -> bool:
        """Say whether the peer should hear our digest (again)."""
        return (
            self.told_digest != membership.roster_digest() or now - self.told_at >= SYNC_INTERVAL_S
        )

    def on_objects(
        self, payload: ObjectsPayload, membership: Membership, own: Sequence[bytes], *, now: float
    ) -> list[tuple[str, bytes]]:
        """Return what to answer, as (kind, payload): our list, or fetches of what we lack.

        Whole objects in the payload have been added to the membership before.
        """
        answers: list[tuple[str, bytes]] = []
        hashes = membership.roster_hashes()
        have = {digest[:PREFIX_SIZE]: None for digest in hashes}
        self.asked = {
            prefix: at
            for prefix, at in self.asked.items()
            if prefix not in have and now - at < ASKED_KEPT_S
        }
        for prefix in payload.listed:
            asked_at = self.asked.get(prefix, float("-inf"))
            if prefix in have or now - asked_at < FETCH_AGAIN_S or len(self.asked) >= MAX_FETCHES:
                continue
            self.asked[prefix] = now
            answers.append(("fetch", prefix))
        digest = membership.roster_digest()
        self.same_digest = payload.digest == digest
        if not self.same_digest and now - self.listed_at >= LIST_AGAIN_S and not self.asked:
            self.listed_at = self.told_at = now
            self.told_digest = digest
            listed = [h[:PREFIX_SIZE] for h in hashes]
            for index in range(min(MAX_LISTS, max(1, -(-len(listed) // MAX_LISTED)))):
                start = (self.list_from + index * MAX_LISTED) % max(1, len(listed))
                part = tuple((listed[start:] + listed[:start])[:MAX_LISTED])
                part_payload = ObjectsPayload(digest, part, tuple(own) if not index else ())
                answers.append(("objects", encode_objects(part_payload)))
            self.list_from += MAX_LISTS * MAX_LISTED  # a larger roster is told in turns
        return answers
