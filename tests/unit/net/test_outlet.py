"""Sending by a function."""

from __future__ import annotations

from ginnel.base.types import Address, Transmit
from ginnel.net.outlet import CallbackSource


def test_packets_go_to_the_function() -> None:
    sent: list[tuple[Address, bytes]] = []
    source = CallbackSource(lambda address, packet: sent.append((address, packet)))
    assert source.fileno() >= 0
    assert source.send([Transmit(b"x", Address("192.0.2.1", 1))]) == 1
    assert sent == [(Address("192.0.2.1", 1), b"x")]
    assert source.receive(10) == ()
    source.close()


def test_what_the_function_can_not_send_is_counted() -> None:
    there = [Address("192.0.2.1", port) for port in (1, 2, 3)]

    def send(address: Address, packet: bytes) -> None:
        if address.port == 2:
            raise OSError("no route")

    source = CallbackSource(send)
    assert source.send([Transmit(b"x", address) for address in there]) == 2
    assert source.failed == 1
    source.close()
