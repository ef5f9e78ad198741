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
