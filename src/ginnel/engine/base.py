"""What Ginnel needs of a data plane.

Commands and events are the values of `base/dataplane.py`. An engine is also a `DatagramSource`:
the driver receives and sends through it what is not WireGuard's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ginnel.base.core import DatagramSource
from ginnel.base.dataplane import EngineCommand, EngineEvent, PeerStats


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters of one engine since its start; datagrams are those of all kinds."""

    peers: int
    udp_rx_packets: int
    udp_rx_bytes: int
    udp_tx_packets: int
    udp_tx_bytes: int
    tun_rx_packets: int
    tun_tx_packets: int
    tun_tx_big: int
    passed_stun: int
    passed_discv5: int
    inner_received: int
    relayed_packets: int
    relayed_bytes: int


class Engine(DatagramSource, Protocol):
    """A data plane.

    When `fileno()` is readable: drain `receive`, then `poll_event` until None.
    """

    def apply(self, command: EngineCommand) -> None:
        """Carry out a command.

        Raises:
            UsageError: the command is wrong (unknown peer, bad prefix or packet, no endpoint);
                nothing was changed.
            SystemFailure: the engine has failed; start a new one.
        """
        ...

    def poll_event(self) -> EngineEvent | None:
        """Return the next event; call until None."""
        ...

    def stats(self) -> EngineStats:
        """Return the counters of all traffic."""
        ...

    def peer_stats(self) -> list[PeerStats]:
        """Return the counters of each peer."""
        ...

    def drops(self) -> Mapping[str, int]:
        """Return how much was dropped or failed, by reason; reasons never seen are left out."""
        ...

    def offloads(self) -> Mapping[str, bool]:
        """Return which offloads of the kernel are in use.

        `tun_tcp` and `tun_udp`: trains of segments cross the TUN; `tun_big`: those of TCP over
        IPv4 to this host in packets of more than 64 KiB; `udp_send` and `udp_receive`: trains of
        datagrams cross the sockets. All works without them, slower.
        """
        ...

    def close(self) -> None:
        """End the engine and wait for its threads; harmless when closed."""
        ...
