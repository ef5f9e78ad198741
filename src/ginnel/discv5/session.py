"""Session keys, the nonces used with them, and the bounded cache of sessions.

A session belongs to node id and UDP address together. The keys before the current ones are kept
for reading, so that two handshakes that cross each other both work.

Invariant: one (key, nonce) pair encrypts at most one message.

Source: devp2p discv5-theory.md, "Session Cache".
"""

from __future__ import annotations

from typing import TypeAlias

from ginnel.base import ciphers
from ginnel.base.chance import RandomBytes
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr

NONCE_RANDOM_SIZE = 8  # bytes of a nonce behind the counter
MAX_MESSAGES_PER_KEY = 2**32  # messages; the counter has 32 bits ("Session Cache")

SessionKey: TypeAlias = tuple[NodeId, Address]


class Session:
    """Both keys of one session.

    Args:
        node_id: the other node.
        public_key: its static key, 33 bytes.
        read_key: 16 bytes, the other side encrypts with it.
        write_key: 16 bytes, ours.
        record: its record, if we have it.
        challenge_data: the challenge we answered, if we are the initiator.
        authdata: of the handshake packet we sent, to answer the same challenge again.
    """

    __slots__ = (
        "_read_key",
        "_sent_count",
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
    ) -> None:
        self.node_id = node_id
        self.public_key = public_key
        self.record = record
        self.challenge_data = challenge_data
        self.authdata = authdata
        self.confirmed = not challenge_data
        self.local_ip: str | None = None
        self.previous: Session | None = None
        self._read_key = read_key
        self._write_key = write_key
        self._sent_count = 0

    @property
    def is_exhausted(self) -> bool:
        """Say whether the write key's counter is used up: start a new handshake."""
        return self._sent_count >= MAX_MESSAGES_PER_KEY

    def next_nonce(self, random_bytes: RandomBytes) -> bytes:
        """Return the nonce of the next message.

        Shape: 12 bytes, the count of messages so far as big-endian uint32, then 8 random bytes.
        The counter alone keeps nonces distinct if the random source repeats.
        """
        return self._next_count().to_bytes(4, "big") + random_bytes(NONCE_RANDOM_SIZE)

    def seal(self, start: bytes, nonce: bytes, message: bytes) -> bytes:
        """Return the packet that begins with `start` (masking IV and header) and has a message."""
        return ciphers.seal(self.node_id, start, self._write_key, nonce, message)

    def seal_next(self, header: bytes, random: bytes, message: bytes) -> tuple[bytes, bytes]:
        """Return an ordinary packet and its nonce, which is as `next_nonce` says; quicker.

        header: of any ordinary packet of ours; random: masking IV, then what the nonce needs.
        """
        count = self._next_count()
        return ciphers.seal_next(self.node_id, header, self._write_key, count, random, message)

    def decrypt(self, nonce: bytes, ciphertext: bytes, authenticated: bytes) -> bytes | None:
        """Return the message encrypted under the other side's key, or None if it is not."""
        return ciphers.open(self._read_key, nonce, ciphertext, authenticated)

    def _next_count(self) -> int:
        count = self._sent_count
        assert count < MAX_MESSAGES_PER_KEY
        self._sent_count = count + 1
        return count


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
