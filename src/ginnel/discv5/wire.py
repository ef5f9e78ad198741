"""Sessions and challenges of one node: packets in, decrypted messages out, and back.

Decides whether a packet is authentic and from whom; knows nothing of requests or tables. Answers
go to the packet's source only, and a challenge (63 bytes, the least a packet has) is never larger
than its cause. While a challenge is open the identical one is sent again.

Source: devp2p discv5-theory.md, "Sessions".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ginnel.base.chance import DrawnAhead, RandomBytes
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, NodeId, Secret, Transmit
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr, RecordCache
from ginnel.discv5.events import Drop
from ginnel.discv5.guard import Guard
from ginnel.discv5.handshake import derive_session_keys, make_id_signature, verify_id_signature
from ginnel.discv5.keys import agree, new_private_key, node_id_of, public_key_of
from ginnel.discv5.packet import (
    FIRST_FREE_BYTE,
    HANDSHAKE_OVERHEAD,
    ID_NONCE_SIZE,
    IV_SIZE,
    MAX_PACKET_SIZE,
    NONCE_SIZE,
    ORDINARY_OVERHEAD,
    TAG_SIZE,
    Flag,
    HandshakePacket,
    OrdinaryPacket,
    PacketCodec,
    WhoAreYouPacket,
)
from ginnel.discv5.requests import Contact
from ginnel.discv5.session import NONCE_RANDOM_SIZE, Session, SessionCache, SessionKey

MAX_HANDSHAKE_ATTEMPTS = 3  # wrong handshakes for one challenge; each costs a signature check


class Dropped(RemoteProtocolError):
    """The packet is dropped; `reason` is counted."""

    def __init__(self, reason: Drop) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Unserved(Dropped):
    """The packet held a request, which gets no answer."""


@dataclass(slots=True)
class _Challenge:
    packet: bytes
    challenge_data: bytes
    record: Enr | None
    expires_at: float
    attempts: int = 0


class Wire:
    """Packets of one node.

    Args:
        private_key: of the local record.
        local_record: returns the current local record.
        known_record: returns the newest record we have of a node, or None.
        guard: says how many challenges a source gets.
    """

    def __init__(
        self,
        config: DiscoveryConfig,
        private_key: Secret,
        *,
        records: RecordCache,
        random_bytes: RandomBytes,
        local_record: Callable[[], Enr],
        known_record: Callable[[NodeId], Enr | None],
        guard: Guard | None = None,
    ) -> None:
        self._config = config
        self._private_key = private_key
        self._random_bytes = random_bytes
        self._open_bytes = DrawnAhead(random_bytes)  # for what is no secret
        self._records = records
        self._local_record = local_record
        self._known_record = known_record
        self.node_id = node_id_of(public_key_of(private_key.reveal()))
        self.codec = PacketCodec(self.node_id, config.protocol_id, self._open_bytes)
        self.sessions = SessionCache(config.session_limit)
        self._challenges: BoundedLru[SessionKey, _Challenge] = BoundedLru(config.challenge_limit)
        self._guard = guard or Guard(config)

    def open_ordinary(
        self, packet: OrdinaryPacket, source: Address
    ) -> tuple[Session, bytes] | None:
        """Decrypt a message under the session with its sender; None: it needs a challenge."""
        session = self.sessions.get((packet.node_id, source))
        while session is not None:
            message = session.decrypt(packet.nonce, packet.ciphertext, packet.authenticated)
            if message is not None:
                return session, message
            session = session.previous
        return None

    def challenge(self, packet: OrdinaryPacket, source: Address, now: float) -> Transmit:
        """Return the challenge to a packet that does not decrypt.

        Raises:
            Dropped: too many for this source.
        """
        if not self._guard.may_be_challenged(source.ip, now):
            raise Dropped(Drop.CHALLENGE_RATE)
        key = (packet.node_id, source)
        open_one = self._challenges.get(key)
        if open_one is not None and now < open_one.expires_at:
            return Transmit(open_one.packet, source)
        record = self._known_record(packet.node_id)
        data, challenge_data = self.codec.encode_whoareyou(
            packet.node_id,
            packet.nonce,
            self._open_bytes(ID_NONCE_SIZE),
            record.seq if record is not None else 0,
        )
        expires_at = now + self._config.handshake_timeout
        self._challenges.put(key, _Challenge(data, challenge_data, record, expires_at))
        return Transmit(data, source)

    def accept(self, packet: HandshakePacket, source: Address, now: float) -> tuple[Session, bytes]:
        """Verify the answer to our challenge; the session it makes becomes the current one.

        Returns the session and the message in the packet.

        Raises:
            Dropped: no such challenge, or anything in it is wrong.
        """
        key = (packet.node_id, source)
        challenge = self._challenges.peek(key)
        if challenge is None or now >= challenge.expires_at:
            raise Dropped(Drop.NO_CHALLENGE)
        challenge.attempts += 1
        if challenge.attempts >= MAX_HANDSHAKE_ATTEMPTS:
            self._challenges.pop(key)
        record = self._handshake_record(packet, challenge)
        data = challenge.challenge_data
        if not verify_id_signature(
            record.public_key, packet.id_signature, data, packet.ephemeral_key, self.node_id
        ):
            raise Dropped(Drop.BAD_SIGNATURE)
        try:
            secret = agree(packet.ephemeral_key, self._private_key.reveal())
        except RemoteProtocolError:
            raise Dropped(Drop.BAD_KEY) from None
        read_key, write_key = derive_session_keys(secret, data, packet.node_id, self.node_id)
        session = Session(
            packet.node_id,
            record.public_key,
            read_key,
            write_key,
            record=record,
        )
        message = session.decrypt(packet.nonce, packet.ciphertext, packet.authenticated)
        if message is None:
            raise Dropped(Drop.BAD_HANDSHAKE_MESSAGE)
        self._challenges.pop(key)
        self.sessions.put(key, session)
        return session, message

    def answer(
        self, packet: WhoAreYouPacket, contact: Contact, message: bytes
    ) -> tuple[Transmit, bytes] | None:
        """Answer a challenge to one of our requests, with a message under the new keys.

        The same challenge gets the same keys again. Returns the packet and its nonce, or None if
        the message does not fit beside our record.
        """
        local = self._local_record()
        record = local.raw if packet.enr_seq < max(local.seq, 1) else b""
        if len(message) + len(record) + HANDSHAKE_OVERHEAD > MAX_PACKET_SIZE:
            return None
        session = self.sessions.get(contact.key)
        if session is None or session.challenge_data != packet.challenge_data:
            session = self._initiate(packet, contact, record)
            self.sessions.put(contact.key, session)
        nonce = session.next_nonce(self._open_bytes)
        header = self.codec.header(Flag.HANDSHAKE, nonce, session.authdata)
        start = self.codec.make_iv(IV_SIZE + len(header) + len(message) + TAG_SIZE) + header
        return Transmit(session.seal(start, nonce, message), contact.address), nonce

    def seal(self, session: Session, message: bytes) -> tuple[bytes, bytes]:
        """Return the packet that carries a message inside a session, and its nonce."""
        random = self._open_bytes(IV_SIZE + NONCE_RANDOM_SIZE)
        if random[0] < FIRST_FREE_BYTE:  # perhaps not free: look closer
            random = self.codec.make_iv(ORDINARY_OVERHEAD + len(message)) + random[IV_SIZE:]
        return session.seal_next(self.codec.ordinary_header, random, message)

    def knock(self, node_id: NodeId) -> tuple[bytes, bytes]:
        """Return a packet that asks a node for a challenge, and its nonce."""
        nonce = self._open_bytes(NONCE_SIZE)
        return self.codec.encode_random(node_id, nonce), nonce

    def _initiate(self, packet: WhoAreYouPacket, contact: Contact, record: bytes) -> Session:
        data = packet.challenge_data
        ephemeral = new_private_key(self._random_bytes)
        ephemeral_public = public_key_of(ephemeral)
        secret = agree(contact.public_key, ephemeral)
        write_key, read_key = derive_session_keys(secret, data, self.node_id, contact.node_id)
        signature = make_id_signature(
            self._private_key.reveal(), data, ephemeral_public, contact.node_id
        )
        return Session(
            contact.node_id,
            contact.public_key,
            read_key,
            write_key,
            record=self._known_record(contact.node_id),
            challenge_data=data,
            authdata=self.codec.handshake_authdata(signature, ephemeral_public, record),
        )

    def _handshake_record(self, packet: HandshakePacket, challenge: _Challenge) -> Enr:
        """Return the record to verify with: the one in the packet only if it is newer."""
        known = challenge.record
        if packet.record:
            try:
                record = self._records.decode(packet.record)
            except RemoteProtocolError:
                raise Dropped(Drop.BAD_RECORD) from None
            if record.node_id != packet.node_id:
                raise Dropped(Drop.BAD_RECORD)
            if known is None or record.seq > known.seq:
                return record
        if known is None:
            raise Dropped(Drop.NO_RECORD)
        return known
