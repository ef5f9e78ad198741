"""Ports of relayed addresses: drawing, waiting, trying another, freeing."""

import random

from ginnel.base.servers import PortRange
from ginnel.ice.turn_ports import MAX_TRIES, FreePort, HoldPort, PortBook


def make(first: int = 50000, last: int = 50999) -> PortBook[str]:
    return PortBook(PortRange(first, last), random.Random(1))


def wanted(book: PortBook[str]) -> int:
    command = book.poll()
    assert isinstance(command, HoldPort)
    return command.port


def test_a_port_is_waited_for_held_and_freed() -> None:
    book = make()
    assert book.want("one", ipv6=False)
    port = wanted(book)
    assert book.waiting == ["one"]
    assert book.on_port(port, True) == ("one", True)
    assert not book.waiting
    book.free(port)
    book.free(port)
    assert book.poll() == FreePort(port)
    assert book.poll() is None


def test_a_port_that_another_program_has_is_no_end() -> None:
    book = make()
    book.want("one", ipv6=True)
    for _ in range(MAX_TRIES - 1):
        assert book.on_port(wanted(book), False) is None
    assert book.on_port(wanted(book), False) == ("one", False)
    assert book.poll() is None


def test_a_small_range_is_used_up_whole() -> None:
    book = make(50000, 50002)
    ports = set()
    for name in "abc":
        assert book.want(name, ipv6=False)
        port = wanted(book)
        book.on_port(port, True)
        ports.add(port)
    assert ports == {50000, 50001, 50002}
    assert not book.want("d", ipv6=False)
    book.free(50001)
    assert book.want("d", ipv6=False)


def test_a_port_for_nobody_is_freed() -> None:
    book = make()
    book.want("one", ipv6=False)
    port = wanted(book)
    book.forget(lambda name: name == "one")
    assert book.on_port(port, True) is None
    assert book.poll() == FreePort(port)
