"""A STUN server of tests, made of our codec: as a core for simulations, and on a real socket."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.stun import Attribute, MessageClass


class StunResponder:
    """Answers Binding requests with where they came from, or with `told`."""

    def __init__(self, told: Address | None = None) -> None:
        self.told = told
        self.asked = 0
        self._out: deque[Transmit] = deque()

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        message = stun.decode_message(data)
        assert (message.method, message.message_class) == (stun.BINDING, MessageClass.REQUEST)
        self.asked += 1
        value = stun.encode_address(self.told or source, message.transaction_id)
        attributes = [(Attribute.XOR_MAPPED_ADDRESS, value)]
        answer = stun.encode_message(MessageClass.SUCCESS, message.transaction_id, attributes)
        self._out.append(Transmit(answer, source, local_ip))

    def handle_timeout(self, *, now: float) -> None:
        pass

    def poll_transmit(self) -> Transmit | None:
        return self._out.popleft() if self._out else None

    def poll_event(self) -> None:
        return None

    def poll_deadline(self) -> Deadline | None:
        return None


@contextmanager
def serving(told: Address | None = None, ip: str = "127.0.0.1") -> Iterator[Address]:
    """Run one on a socket of its own, in a thread that ends with the block."""
    core = StunResponder(told)
    waker, wakened = socket.socketpair()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, waker, wakened:
        sock.bind((ip, 0))

        def serve() -> None:
            while wakened not in select.select([sock, wakened], [], [])[0]:
                data, source = sock.recvfrom(2048)
                core.handle_datagram(data, Address(*source), now=0.0)
                while (out := core.poll_transmit()) is not None:
                    sock.sendto(out.data, tuple(out.destination))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address(*sock.getsockname())
        finally:
            waker.send(b"x")
            thread.join()


@contextmanager
def silent() -> Iterator[Address]:
    """Hold a port that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield Address(*sock.getsockname())
