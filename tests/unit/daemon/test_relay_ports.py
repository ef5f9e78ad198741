"""Ports that our relay holds: really bound, refused where taken, freed."""

import socket

from ginnel.daemon.relay_ports import RelayPorts
from ginnel.ice.turn_ports import FreePort, HoldPort


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("", 0))
        port: int = bound.getsockname()[1]
        return port


def test_ports_are_bound_until_they_are_freed() -> None:
    port = free_port()
    ports, others = RelayPorts(), RelayPorts()
    assert ports.on_command(HoldPort(port, ipv6=False))
    assert not others.on_command(HoldPort(port, ipv6=False))
    assert not ports.on_command(FreePort(port))
    assert others.on_command(HoldPort(port, ipv6=False))
    others.close()
    assert ports.on_command(HoldPort(port, ipv6=False))
    ports.close()
