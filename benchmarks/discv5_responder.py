"""Nodes that answer each FINDNODE with 16 records, to measure the asking side.

Raw codec, no table, no limits: it must not be what holds the asker up. Sixteen ids, each with its
own socket and its own 16 records, all at distance 256 from it. Prints its ids' records as one JSON
list, ends with its input.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Sequence

from benchmarks.discv5_load import BUFFER, PROTOCOL_ID, RECORDS, key_beyond
from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr, address_fields, decode_enr, sign_enr
from ginnel.discv5.handshake import derive_session_keys
from ginnel.discv5.keys import agree
from ginnel.discv5.messages import (
    FindNode,
    Message,
    Nodes,
    Ping,
    Pong,
    decode_message,
    encode_message,
)
from ginnel.discv5.packet import (
    ID_NONCE_SIZE,
    IV_SIZE,
    TAG_SIZE,
    Flag,
    HandshakePacket,
    OrdinaryPacket,
    PacketCodec,
    PacketError,
)
from ginnel.discv5.session import Session

IDS = 16
PER_PACKET = 4  # records: go-ethereum reads at most five packets of an answer


class Responder:
    """One id."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.socket.bind(("127.0.0.1", 0))
        self._key = key_beyond(0)
        address = Address("127.0.0.1", self.socket.getsockname()[1])
        self.enr = sign_enr(self._key, 1, address_fields(address))
        self._codec = PacketCodec(self.enr.node_id, PROTOCOL_ID, os.urandom)
        self._challenges: dict[NodeId, bytes] = {}
        self._sessions: dict[NodeId, Session] = {}
        records = [
            sign_enr(key_beyond(1), 1, address_fields(Address("127.0.0.1", 40_000 + number))).raw
            for number in range(RECORDS)
        ]
        self._groups = [
            tuple(records[at : at + PER_PACKET]) for at in range(0, RECORDS, PER_PACKET)
        ]

    def answer(self) -> None:
        """Take one packet and answer it."""
        data, source = self.socket.recvfrom(2048)
        try:
            packet = self._codec.decode(data)
        except PacketError:
            return
        session, message = None, None
        if isinstance(packet, OrdinaryPacket):
            session = self._sessions.get(packet.node_id)
            if session is not None:
                message = session.decrypt(packet.nonce, packet.ciphertext, packet.authenticated)
            if message is None:
                self._challenge(packet, source)
                return
        elif isinstance(packet, HandshakePacket):
            session = self._accept(packet)
            message = session.decrypt(packet.nonce, packet.ciphertext, packet.authenticated)
        if session is not None and message is not None:
            for answer in self._answers(decode_message(message), source):
                self.socket.sendto(self._seal(session, encode_message(answer)), source)

    def _challenge(self, packet: OrdinaryPacket, source: tuple[str, int]) -> None:
        id_nonce = os.urandom(ID_NONCE_SIZE)
        data, challenge = self._codec.encode_whoareyou(packet.node_id, packet.nonce, id_nonce, 0)
        self._challenges[packet.node_id] = challenge
        self.socket.sendto(data, source)

    def _accept(self, packet: HandshakePacket) -> Session:
        enr: Enr = decode_enr(packet.record)
        secret = agree(packet.ephemeral_key, self._key)
        challenge = self._challenges[packet.node_id]
        read_key, write_key = derive_session_keys(
            secret, challenge, packet.node_id, self.enr.node_id
        )
        session = Session(packet.node_id, enr.public_key, read_key, write_key)
        self._sessions[packet.node_id] = session
        return session

    def _answers(self, message: Message, source: tuple[str, int]) -> Sequence[Message]:
        match message:
            case Ping(request_id):
                return [Pong(request_id, self.enr.seq, Address(*source))]
            case FindNode(request_id, (0,)):
                return [Nodes(request_id, 1, (self.enr.raw,))]
            case FindNode(request_id):
                total = len(self._groups)
                return [Nodes(request_id, total, group) for group in self._groups]
        return []

    def _seal(self, session: Session, message: bytes) -> bytes:
        nonce = session.next_nonce(os.urandom)
        header = self._codec.header(Flag.ORDINARY, nonce, self.enr.node_id)
        iv = self._codec.make_iv(IV_SIZE + len(header) + len(message) + TAG_SIZE)
        return session.seal(iv + header, nonce, message)


def main() -> None:
    """Answer until standard input ends."""
    responders = [Responder() for _ in range(IDS)]
    print(json.dumps([responder.enr.to_text() for responder in responders]), flush=True)
    poll = select.epoll()
    by_fd = {responder.socket.fileno(): responder for responder in responders}
    for fd in [*by_fd, sys.stdin.fileno()]:
        poll.register(fd, select.EPOLLIN | select.EPOLLHUP)
    while True:
        for fd, _ in poll.poll():
            if fd not in by_fd:
                return
            by_fd[fd].answer()


if __name__ == "__main__":
    main()
