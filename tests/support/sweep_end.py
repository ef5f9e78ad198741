"""One end of many transfers in a row over a tunnel whose MTU changes, for comparing what is sent
with what arrives: run on a lab machine.

python sweep_end.py listen|connect OWN4 OTHER4 OWN6 OTHER6    until its stdin ends

A line on stdin is an `Order`, the same for both ends; a line on stdout is what came of it, a
`Result`. Both ends send datagrams, then both ways of one TCP stream run at once. Data comes from
the order's seed, digests from what really was sent and received.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TypeAlias

PORT = 5001
TCP_BYTES = 320_000  # each way: the window opens to trains of 64 kB
WAIT_S = 300.0  # seconds without progress: a stream that a lossy line stalls backs off for long
RECEIVE_BUFFER = 4 << 20
UDP_SEGMENT = 103  # linux/udp.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
HEADERS = {socket.AF_INET: 20 + 8, socket.AF_INET6: 40 + 8}  # of a datagram
TAG_SIZE = 6  # order's number, datagram's number
TRAIN = 6
SAME, MIXED = 3, 6  # datagrams of one size, and of any; all fit into what waits for a handshake

Sockets: TypeAlias = dict[socket.AddressFamily, tuple[socket.socket, socket.socket]]


@dataclass(frozen=True)
class Order:
    """What both ends do next."""

    number: int  # rises
    seed: str
    mtu: int
    ipv6: bool
    patience_s: float  # for datagrams that the stream has overtaken

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if self.ipv6 else socket.AF_INET

    @property
    def room(self) -> int:
        """Return the bytes of the largest datagram in one packet."""
        return self.mtu - HEADERS[self.family]


@dataclass(frozen=True)
class Result:
    """Digests of one end."""

    stream_sent: str
    stream_received: str
    datagrams_sent: list[str]
    datagrams_received: list[str]


class End:
    """One end, with its sockets open."""

    def __init__(self, listens: bool, addresses: list[str]) -> None:
        self._listens = listens
        own4, other4, own6, other6 = addresses
        self._others = {socket.AF_INET: other4, socket.AF_INET6: other6}
        self._sockets: Sockets = {
            socket.AF_INET: open_sockets(socket.AF_INET, own4, other4),
            socket.AF_INET6: open_sockets(socket.AF_INET6, own6, other6),
        }

    def run(self, order: Order) -> Result:
        rng = random.Random(f"{order.seed} {self._listens}")
        listener, udp = self._sockets[order.family]
        datagrams_sent = send_datagrams(udp, order, rng)
        data = rng.randbytes(TCP_BYTES)
        if self._listens:
            stream, _ = listener.accept()
        else:
            stream = socket.create_connection((self._others[order.family], PORT), WAIT_S)
        with stream:
            stream.settimeout(WAIT_S)
            sender = threading.Thread(target=send_stream, args=(stream, data))
            sender.start()
            received = hashlib.sha256()
            while part := stream.recv(1 << 18):
                received.update(part)
            sender.join()
        return Result(
            hashlib.sha256(data).hexdigest(),
            received.hexdigest(),
            datagrams_sent,
            receive_datagrams(udp, order, len(datagrams_sent)),
        )


def open_sockets(
    family: socket.AddressFamily, own: str, other: str
) -> tuple[socket.socket, socket.socket]:
    listener = socket.create_server((own, PORT), family=family)
    listener.settimeout(WAIT_S)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    udp.bind((own, PORT))
    udp.connect((other, PORT))
    return listener, udp


def send_stream(stream: socket.socket, data: bytes) -> None:
    stream.sendall(data)
    stream.shutdown(socket.SHUT_WR)


def send_datagrams(udp: socket.socket, order: Order, rng: random.Random) -> list[str]:
    """Send what fits, what just doesn't, some of one size, some of any and a train; say what."""
    sent: list[str] = []

    def make(size: int) -> bytes:
        tag = order.number.to_bytes(4, "big") + len(sent).to_bytes(2, "big")
        data = tag + rng.randbytes(size - TAG_SIZE)
        sent.append(digest(data))
        return data

    room = order.room
    same = rng.randint(TAG_SIZE, room)
    mixed = [rng.randint(TAG_SIZE, room) for _ in range(MIXED)]
    for size in (room, room - 1, room + 1, *(same,) * SAME, *mixed):
        udp.send(make(size))
    segment = rng.choice((room, rng.randint(TAG_SIZE, room)))
    udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
    sizes = [segment] * (TRAIN - 1) + [rng.randint(TAG_SIZE, segment)]
    udp.send(b"".join(make(size) for size in sizes))
    udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    return sent


def receive_datagrams(udp: socket.socket, order: Order, count: int) -> list[str]:
    """Take an order's datagrams, less those of earlier ones that came too late."""
    received: list[str] = []
    ends_at = time.monotonic() + order.patience_s
    while len(received) < count:
        udp.settimeout(max(0.001, ends_at - time.monotonic()))
        try:
            data = udp.recv(65_536)
        except TimeoutError:
            break
        if len(data) < TAG_SIZE or int.from_bytes(data[:4], "big") >= order.number:
            received.append(digest(data))
    return received


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def main(role: str, *addresses: str) -> None:
    end = End(role == "listen", list(addresses))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(end.run(Order(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
