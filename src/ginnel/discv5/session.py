"""Session keys, the nonces used with them, and the bounded cache of sessions.

A session belongs to node id and UDP address together. The keys before the current ones are kept
for reading, so that two handshakes that cross each other both work.

Invariant: one (key, nonce) pair encrypts at most one message.

Source: devp2p discv5-theory.md, "Session Cache".
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ginnel.base.chance import RandomBytes
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr
from ginnel.discv5.packet import Mask, new_mask

MAX_MESSAGES_PER_KEY = 2**32  # messages; the counter has 32 bits ("Session Cache")

DEFAULT_WARM = 256  # sessions

SessionKey: TypeAlias = tuple[NodeId, Address]


class WarmPool:
    """The sessions whose contexts are kept: the most recently used ones of all nodes that share it.

    Args:
        limit: sessions, 1 or more; each takes 7 kB.
    """

    def __init__(self, limit: int = DEFAULT_WARM) -> None:
        self._limit = limit
        self._sessions: OrderedDict[Session, None] = OrderedDict()
        self.newest: Session | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def touch(self, session: Session) -> None:
        """Note the use of a session; the one that was not used for longest cools down."""
        self.newest = session
        if session in self._sessions:
            self._sessions.move_to_end(session)
            return
        self._sessions[session] = None
        if len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)[0].cool()


class Session:
    """Both keys of one session, with contexts that are kept while they are used.

    Making the contexts takes 10 microseconds and keeping them 7 kB: `pool` says which are kept.

    Args:
        node_id: the other node.
        public_key: its static key, 33 bytes.
        read_key: 16 bytes, the other side encrypts with it.
        write_key: 16 bytes, ours.
        record: its record, if we have it.
        challenge_data: the challenge we answered, if we are the initiator.
        authdata: of the handshake packet we sent, to answer the same challenge again.
        pool: bounds the memory of contexts; without it they are kept for good.
        mask: the masking context, if there is one already.
    """

    __slots__ = (
        "_mask",
        "_pool",
        "_read",
        "_read_key",
        "_sent_count",
        "_write",
        "_write_key",
        "authdata",
        "challenge_data",
        "confirmed",
        "local_ip",
        "node_id",
        "previous",
        "public_key",
        "record",
    )

    def __init__(
        self,
        node_id: NodeId,
        public_key: bytes,
        read_key: bytes,
        write_key: bytes,
        *,
        record: Enr | None = None,
        challenge_data: bytes = b"",
        authdata: bytes = b"",
        pool: WarmPool | None = None,
        mask: Mask | None = None,
    ) -> None:
        self.node_id = node_id
        self.public_key = public_key
        self.record = record
        self.challenge_data = challenge_data
        self.authdata = authdata
        self.confirmed = not challenge_data
        self.local_ip: str | None = None
        self.previous: Session | None = None
        self._pool = pool
        self._read_key = read_key
        self._write_key = write_key
        self._mask = mask
        self._read: AESGCM | None = None
        self._write: AESGCM | None = None
        self._sent_count = 0

    @property
    def is_exhausted(self) -> bool:
        """Say whether the write key's counter is used up: start a new handshake."""
        return self._sent_count >= MAX_MESSAGES_PER_KEY

    @property
    def mask(self) -> Mask:
        """The masking context of packets to the node."""
        if self._mask is None:
            self._mask = new_mask(self.node_id)
        return self._mask

    def cool(self) -> None:
        """Let go of the contexts, and of the keys before these: only the keys stay."""
        self._mask = self._read = self._write = None
        if self.confirmed:
            self.previous = None

    def next_nonce(self, random_bytes: RandomBytes) -> bytes:
        """Return the nonce of the next message.

        Shape: 12 bytes, the count of messages so far as big-endian uint32, then 8 random bytes.
        The counter alone keeps nonces distinct if the random source repeats.
        """
        count = self._sent_count
        assert count < MAX_MESSAGES_PER_KEY
        self._sent_count = count + 1
        return count.to_bytes(4, "big") + random_bytes(8)

    def encrypt(self, nonce: bytes, message: bytes, authenticated: bytes) -> bytes:
        """Return the message encrypted under our key."""
        if self._pool is not None and self._pool.newest is not self:
            self._pool.touch(self)
        write = self._write
        if write is None:
            write = self._write = AESGCM(self._write_key)
        return write.encrypt(nonce, message, authenticated)

    def decrypt(self, nonce: bytes, ciphertext: bytes, authenticated: bytes) -> bytes | None:
        """Return the message encrypted under the other side's key, or None if it is not."""
        if self._pool is not None and self._pool.newest is not self:
            self._pool.touch(self)
        read = self._read
        if read is None:
            read = self._read = AESGCM(self._read_key)
        try:
            return read.decrypt(nonce, ciphertext, authenticated)
        except InvalidTag:
            return None


class SessionCache:
    """The sessions in use, at most `limit`; the least recently used goes first, pinned ones stay.

    Args:
        limit: sessions, 1 or more.
    """

    def __init__(self, limit: int) -> None:
        self._sessions: BoundedLru[SessionKey, Session] = BoundedLru(limit)
        self._pinned: dict[SessionKey, None] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: SessionKey) -> Session | None:
        """Return the session and mark it used, or None."""
        return self._sessions.get(key)

    def has(self, key: SessionKey) -> bool:
        """Say whether there is a session, without marking it used."""
        return key in self._sessions

    def put(self, key: SessionKey, session: Session) -> None:
        """Make this the current session; keep the one before it for reading."""
        before = self._sessions.peek(key)
        if before is not None:
            before.previous = None
            session.previous = before
        self._sessions.put(key, session)

    def forget_local_ips(self) -> None:
        """Let the system choose where packets are sent from, until the next one arrives."""
        for key in self._sessions:
            session = self._sessions.peek(key)
            if session is not None:
                session.local_ip = None

    def drop(self, key: SessionKey) -> None:
        """Forget the keys; a pin stays for the next session."""
        self._sessions.pop(key)
        if key in self._pinned:
            self._sessions.pin(key)

    def pin(self, key: SessionKey) -> bool:
        """Keep the session, present or not yet; False if half of the cache is pinned already."""
        if key not in self._pinned and len(self._pinned) * 2 >= self._sessions.limit:
            return False
        self._pinned[key] = None
        self._sessions.pin(key)
        return True

    def unpin(self, key: SessionKey) -> None:
        """Let the session be pushed out again."""
        self._pinned.pop(key, None)
        self._sessions.unpin(key)
