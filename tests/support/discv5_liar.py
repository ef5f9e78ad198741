"""A node that keeps the wire protocol and lies in NODES: invented, far, oversized, too many."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address, Deadline, Secret, Transmit
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr, RecordCache, sign_enr
from ginnel.discv5.keys import log_distance, new_private_key
from ginnel.discv5.messages import FindNode, Message, Nodes, Ping, Pong, decode_message
from ginnel.discv5.messages import encode_message as encode
from ginnel.discv5.packet import HandshakePacket, OrdinaryPacket, PacketError
from ginnel.discv5.wire import Dropped, Wire

Lie = Callable[[FindNode], list[Nodes]]


class Liar:
    """A core (five verbs) that answers PING rightly and FINDNODE by a lie."""

    def __init__(self, key: Secret, record: Enr, lie: Lie, seed: int) -> None:
        self.record = record
        self.rng = random.Random(seed)
        self.lie = lie
        self.wire = Wire(
            DiscoveryConfig(),
            key,
            records=RecordCache(64),
            random_bytes=self.rng.randbytes,
            local_record=lambda: record,
            known_record=lambda node_id: None,
        )
        self.node_id = self.wire.node_id
        self.out: deque[Transmit] = deque()
        self.asked = 0

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        try:
            packet = self.wire.codec.decode(data)
            if isinstance(packet, OrdinaryPacket):
                opened = self.wire.open_ordinary(packet, source)
                if opened is None:
                    self.out.append(self.wire.challenge(packet, source, now))
                    return
            elif isinstance(packet, HandshakePacket):
                opened = self.wire.accept(packet, source, now)
            else:
                return
            session, plain = opened
            message = decode_message(plain)
        except (PacketError, Dropped, RemoteProtocolError):
            return
        answers: Sequence[Message] = ()
        if isinstance(message, Ping):
            answers = [Pong(message.request_id, self.record.seq, source)]
        elif isinstance(message, FindNode):
            self.asked += 1
            is_for_itself = 0 in message.distances
            own = Nodes(message.request_id, 1, (self.record.raw,))
            answers = [own] if is_for_itself else self.lie(message)
        for answer in answers:
            data, _ = self.wire.seal(session, encode(answer))
            self.out.append(Transmit(data, source))

    def handle_timeout(self, *, now: float) -> None: ...

    def poll_transmit(self) -> Transmit | None:
        return self.out.popleft() if self.out else None

    def poll_event(self) -> None:
        return None

    def poll_deadline(self) -> Deadline | None:
        return None


def invented(rng: random.Random, own: Enr) -> Lie:
    """Name valid records of nodes that don't exist, at the distances asked for."""
    records: dict[int, list[bytes]] = {}
    for _ in range(64):
        ip = bytes((198, 18 + rng.randrange(2), rng.randrange(256), 9))
        enr = sign_enr(new_private_key(rng.randbytes), 1, {"ip": ip, "udp": 9})
        records.setdefault(log_distance(own.node_id, enr.node_id), []).append(enr.raw)

    def lie(message: FindNode) -> list[Nodes]:
        found = [raw for distance in message.distances for raw in records.get(distance, [])]
        return [Nodes(message.request_id, 1, tuple(found[:5]))]

    return lie


def far(records: Sequence[Enr]) -> Lie:
    """Name true records at distances that were not asked for."""

    def lie(message: FindNode) -> list[Nodes]:
        return [Nodes(message.request_id, 1, tuple(record.raw for record in records[:5]))]

    return lie


def oversized(message: FindNode) -> list[Nodes]:
    """Name records of more than 300 bytes, and packets of 1280."""
    return [Nodes(message.request_id, 2, (bytes(301),)), Nodes(message.request_id, 2, (b"",))]


def too_many(records: Sequence[Enr]) -> Lie:
    """Announce thousands of packets and send far too many records."""

    def lie(message: FindNode) -> list[Nodes]:
        raw = [record.raw for record in records[:80]]
        return [
            Nodes(message.request_id, 5000, tuple(raw[at : at + 5])) for at in range(0, len(raw), 5)
        ]

    return lie


def each_other(records: Sequence[Enr], own: Enr) -> Lie:
    """Name only one's own kind, where the distance fits."""

    def lie(message: FindNode) -> list[Nodes]:
        wanted = message.distances
        fits = [r.raw for r in records if log_distance(own.node_id, r.node_id) in wanted]
        return [Nodes(message.request_id, 1, tuple(fits[:6]))]

    return lie
