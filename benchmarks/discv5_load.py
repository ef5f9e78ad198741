"""The load program of the discv5 benchmark: one raw codec, the same for every implementation.

Requests are encrypted before the clock starts and answers are decrypted after it stopped, so that
what is timed is the other side's work; the client's part in a handshake that can't be done before
(one signature, one key derivation) is the same for all. Every answer is checked.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ginnel.discv5.enr import Enr, sign_enr
from ginnel.discv5.handshake import derive_session_keys, make_id_signature
from ginnel.discv5.keys import agree, new_private_key, public_key_of
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
    IV_SIZE,
    NONCE_SIZE,
    TAG_SIZE,
    Flag,
    OrdinaryPacket,
    PacketCodec,
    PacketError,
    WhoAreYouPacket,
)
from ginnel.discv5.session import Session

PROTOCOL_ID = b"discv5"
ANSWER_LIMIT = 1.0  # seconds without any answer until what is under way counts as lost
MAX_LOST = 0.01  # of the requests; more is an error of the benchmark
RECORDS = 16  # of one FINDNODE
BUFFER = 4 << 20  # bytes of the socket's buffers


class LoadError(Exception):
    """The other side did not do what the benchmark needs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one load."""

    answered: int
    seconds: float


class Identity:
    """A client, with all of its handshake that needs no challenge."""

    def __init__(self, server: Enr) -> None:
        self.server = server
        self.key = new_private_key(os.urandom)
        self.enr = sign_enr(self.key, 1, {})
        self.codec = PacketCodec(self.enr.node_id, PROTOCOL_ID, os.urandom)
        ephemeral = new_private_key(os.urandom)
        self.ephemeral_key = public_key_of(ephemeral)
        self.secret = agree(server.public_key, ephemeral)
        self.knock = self.codec.encode_random(server.node_id, os.urandom(NONCE_SIZE))
        self.ping = encode_message(Ping(os.urandom(8), 1))

    def answer(self, packet: WhoAreYouPacket) -> tuple[Session, bytes]:
        """Return the session of a challenge, and the handshake packet with a PING."""
        data, server = packet.challenge_data, self.server
        write_key, read_key = derive_session_keys(
            self.secret, data, self.enr.node_id, server.node_id
        )
        signature = make_id_signature(self.key, data, self.ephemeral_key, server.node_id)
        session = Session(server.node_id, server.public_key, read_key, write_key)
        authdata = self.codec.handshake_authdata(signature, self.ephemeral_key, self.enr.raw)
        return session, self.seal(session, Flag.HANDSHAKE, authdata, self.ping)

    def seal(self, session: Session, flag: Flag, authdata: bytes, message: bytes) -> bytes:
        """Return a packet inside the session."""
        nonce = session.next_nonce(os.urandom)
        header = self.codec.header(flag, nonce, authdata)
        iv = self.codec.make_iv(IV_SIZE + len(header) + len(message) + TAG_SIZE)
        return session.seal(iv + header, nonce, message)

    def read(self, session: Session, data: bytes) -> Message | None:
        """Return the message of a packet inside the session, or None if it is none."""
        try:
            packet = self.codec.decode(data)
        except PacketError:
            return None
        if not isinstance(packet, OrdinaryPacket):
            return None
        message = session.decrypt(packet.nonce, packet.ciphertext, packet.authenticated)
        return None if message is None else decode_message(message)


def connect(server: Enr) -> socket.socket:
    """Return a socket that speaks with this node only."""
    address = server.address()
    assert address is not None
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.bind(("127.0.0.1", 0))
    sock.connect(address)
    seconds, fraction = divmod(ANSWER_LIMIT, 1)
    limit = struct.pack("ll", int(seconds), int(fraction * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)  # cheaper than Python's timeout
    return sock


class Client:
    """One client with a session; close it after use."""

    def __init__(self, server: Enr) -> None:
        self._identity = Identity(server)
        self._socket = connect(server)
        self._socket.send(self._identity.knock)
        packet = self._identity.codec.decode(self._socket.recv(2048))
        assert isinstance(packet, WhoAreYouPacket)
        self._session, handshake = self._identity.answer(packet)
        self._socket.send(handshake)
        while not isinstance(self._identity.read(self._session, self._socket.recv(2048)), Pong):
            pass

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ping(self, count: int, in_flight: int) -> Outcome:
        """Send PINGs, so many at a time."""
        requests = [Ping(_request_id(number), 1) for number in range(count)]
        seconds, answers = self._exchange(requests, in_flight, 1)
        seen = {answer.request_id for answer in answers if isinstance(answer, Pong)}
        return _checked(len(seen), count, seconds)

    def find_node(self, distance: int, count: int, in_flight: int) -> Outcome:
        """Send FINDNODEs that must each be answered with 16 records."""
        packets = len(self._find_one(distance))
        requests = [FindNode(_request_id(number), (distance,)) for number in range(count)]
        seconds, answers = self._exchange(requests, in_flight, packets)
        records: dict[bytes, int] = {}
        for answer in answers:
            if isinstance(answer, Nodes):
                so_far = records.get(answer.request_id, 0)
                records[answer.request_id] = so_far + len(answer.records)
        full = sum(number == RECORDS for number in records.values())
        return _checked(full, count, seconds)

    def records_at(self, distance: int) -> int:
        """Return how many records the node serves at this distance."""
        return sum(len(nodes.records) for nodes in self._find_one(distance))

    def _find_one(self, distance: int) -> list[Nodes]:
        """Send one FINDNODE and return the packets of its answer."""
        identity = self._identity
        request = FindNode(os.urandom(8), (distance,))
        message = encode_message(request)
        node_id = identity.enr.node_id
        self._socket.send(identity.seal(self._session, Flag.ORDINARY, node_id, message))
        found: list[Nodes] = []
        while not found or len(found) < found[0].total:
            answer = identity.read(self._session, self._socket.recv(2048))
            if isinstance(answer, Nodes) and answer.request_id == request.request_id:
                found.append(answer)
        return found

    def _exchange(
        self, requests: Sequence[Ping | FindNode], in_flight: int, packets: int
    ) -> tuple[float, list[Message]]:
        """Send all, each as soon as an earlier one has got its packets; return what came."""
        identity, sock = self._identity, self._socket
        node_id = identity.enr.node_id
        ready = [
            identity.seal(self._session, Flag.ORDINARY, node_id, encode_message(request))
            for request in requests
        ]
        answers: list[bytes] = []
        send, receive = sock.send, sock.recv
        began = ended = time.perf_counter()
        for packet in ready[:in_flight]:
            send(packet)
        sent = min(in_flight, len(ready))
        wanted = len(ready) * packets
        lost = 0  # packets
        while len(answers) + lost < wanted:
            try:
                answers.append(receive(2048))
                ended = time.perf_counter()
            except BlockingIOError:
                lost += in_flight * packets
            while sent < len(ready) and sent < in_flight + (len(answers) + lost) // packets:
                send(ready[sent])
                sent += 1
        read = (identity.read(self._session, answer) for answer in answers)
        return ended - began, [message for message in read if message is not None]


def handshakes(server: Enr, count: int, in_flight: int) -> Outcome:
    """Open sessions under new ids, so many at a time; a PONG inside the session ends one."""
    identities = [Identity(server) for _ in range(count)]
    slots = [_Slot(connect(server)) for _ in range(in_flight)]
    poll = select.epoll()
    by_fd = {slot.socket.fileno(): slot for slot in slots}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    waiting = iter(identities)
    began = ended = time.perf_counter()
    active = sum(slot.begin(next(waiting, None)) for slot in slots)
    done = 0
    while active:
        ready = poll.poll(ANSWER_LIMIT)
        if not ready:
            break
        for fd, _ in ready:
            slot = by_fd[fd]
            if slot.advance():
                done += 1
                ended = time.perf_counter()
                active -= not slot.begin(next(waiting, None))
    poll.close()
    for slot in slots:
        slot.socket.close()
    return _checked(done, count, ended - began)


class _Slot:
    """One socket that makes handshakes one after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._identity: Identity | None = None
        self._session: Session | None = None

    def begin(self, identity: Identity | None) -> bool:
        """Start the next handshake; False if there is none left."""
        self._identity, self._session = identity, None
        if identity is None:
            return False
        self.socket.send(identity.knock)
        return True

    def advance(self) -> bool:
        """Take one packet; say whether it completes the handshake."""
        data = self.socket.recv(2048)
        if self._identity is None:
            return False
        if self._session is not None:
            return isinstance(self._identity.read(self._session, data), Pong)
        try:
            packet = self._identity.codec.decode(data)
        except PacketError:  # late, for the id before
            return False
        if isinstance(packet, WhoAreYouPacket):
            self._session, handshake = self._identity.answer(packet)
            self.socket.send(handshake)
        return False


def key_beyond(first_bit: int) -> bytes:
    """Return a private key whose node id begins with this bit: the other bit is at distance 256."""
    while True:
        key = new_private_key(os.urandom)
        if sign_enr(key, 1, {}).node_id[0] >> 7 == first_bit:
            return key


def _request_id(number: int) -> bytes:
    return b"\xb0" + number.to_bytes(7, "big")


def _checked(answered: int, count: int, seconds: float) -> Outcome:
    if answered < count * (1 - MAX_LOST):
        raise LoadError(f"only {answered} of {count} requests were answered in full")
    return Outcome(answered, seconds)
