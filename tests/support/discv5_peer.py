"""A peer made of bytes: it speaks to a live core by the codecs' lowest layer only."""

from __future__ import annotations

import random

from ginnel.base.types import Address, NodeId, Transmit
from ginnel.discv5.enr import sign_enr
from ginnel.discv5.handshake import derive_session_keys, make_id_signature
from ginnel.discv5.keys import agree, new_private_key, node_id_of, public_key_of
from ginnel.discv5.messages import Ping, encode_message
from ginnel.discv5.packet import Flag, OrdinaryPacket, PacketCodec, WhoAreYouPacket
from ginnel.discv5.session import Session
from support.discv5_net import Host


class RawPeer:
    """Has a session with one host after `connect`; sends any plaintext under its keys."""

    def __init__(self, host: Host, address: Address, seed: int = 1) -> None:
        self.host = host
        self.address = address
        self.rng = random.Random(seed)
        self.key = new_private_key(self.rng.randbytes)
        self.public_key = public_key_of(self.key)
        self.node_id: NodeId = node_id_of(self.public_key)
        self.record = sign_enr(self.key, 1, {"ip": address.packed_ip, "udp": address.port})
        self.codec = PacketCodec(self.node_id, b"discv5", self.rng.randbytes)
        self.session: Session | None = None

    def transmits(self) -> list[Transmit]:
        sent = []
        while (transmit := self.host.core.poll_transmit()) is not None:
            if transmit.destination == self.address:
                sent.append(transmit)
        return sent

    def knock(self, now: float) -> WhoAreYouPacket:
        data = self.codec.encode_random(self.host.core.node_id, self.rng.randbytes(12))
        self.host.core.handle_datagram(data, self.address, now=now)
        (transmit,) = self.transmits()
        assert len(transmit.data) <= len(data)
        packet = self.codec.decode(transmit.data)
        assert isinstance(packet, WhoAreYouPacket)
        return packet

    def handshake(self, challenge: WhoAreYouPacket, message: bytes, record: bytes) -> bytes:
        ephemeral = new_private_key(self.rng.randbytes)
        data = challenge.challenge_data
        host_id = self.host.core.node_id
        secret = agree(self.host.core.record.public_key, ephemeral)
        write_key, read_key = derive_session_keys(secret, data, self.node_id, host_id)
        self.session = Session(host_id, b"", read_key, write_key)
        signature = make_id_signature(self.key, data, public_key_of(ephemeral), host_id)
        authdata = self.codec.handshake_authdata(signature, public_key_of(ephemeral), record)
        return self.packet(Flag.HANDSHAKE, authdata, message)

    def packet(self, flag: Flag, authdata: bytes, message: bytes) -> bytes:
        assert self.session is not None
        nonce = self.session.next_nonce(self.rng.randbytes)
        header = self.codec.header(flag, nonce, authdata)
        iv = self.codec.make_iv(16 + len(header) + len(message) + 16)
        return self.session.seal(iv + header, nonce, message)

    def connect(self, now: float) -> None:
        challenge = self.knock(now)
        record = self.record.raw if challenge.enr_seq < self.record.seq else b""
        data = self.handshake(challenge, encode_message(Ping(b"hi", 1)), record)
        self.host.core.handle_datagram(data, self.address, now=now)
        assert self.receive()

    def send(self, message: bytes, *, now: float) -> None:
        if self.session is None:
            self.connect(now)
        data = self.packet(Flag.ORDINARY, self.node_id, message)
        self.host.core.handle_datagram(data, self.address, now=now)

    def receive(self) -> list[bytes]:
        """Return the plaintexts that the host sent to us, opened with the session's keys."""
        assert self.session is not None
        messages = []
        for transmit in self.transmits():
            packet = self.codec.decode(transmit.data)
            if isinstance(packet, OrdinaryPacket):
                plain = self.session.decrypt(packet.nonce, packet.ciphertext, packet.authenticated)
                if plain is not None:
                    messages.append(plain)
        return messages
