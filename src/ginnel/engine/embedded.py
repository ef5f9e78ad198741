"""The Rust data plane in this process, on threads of its own.

It converts between the values of `base/dataplane.py` and the tuples of `ginnel._native`, and
decides nothing. Threads start in the constructor: restrict the process (uid, Landlock) before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ginnel._native import DataPlane
from ginnel.base.dataplane import (
    ChannelCommand,
    CloseChannel,
    CloseProxy,
    ConsentAnswered,
    ConsentMissed,
    DataUnanswered,
    EndForwards,
    Endpoint,
    EndpointRoamed,
    EngineCommand,
    EngineEvent,
    ForgetConsent,
    ForwardChannel,
    HandshakeCompleted,
    InnerReceived,
    OpenChannel,
    PeerStats,
    RemovePeer,
    SendInner,
    SendProbe,
    SetPathMtu,
    SetPeer,
    StartHandshake,
    WatchConsent,
)
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address, Datagram, Secret, Transmit
from ginnel.engine.base import EngineStats

KEY_SIZE = 32  # bytes; a WireGuard key
MAX_KEEPALIVE_S = 65535  # seconds; WireGuard's keepalive has 16 bits

_TRAFFIC = (
    "udp_rx_packets",
    "udp_rx_bytes",
    "udp_tx_packets",
    "udp_tx_bytes",
    "tun_rx_packets",
    "tun_tx_packets",
    "tun_tx_big",
    "passed_stun",
    "passed_discv5",
    "inner_received",
    "relayed_packets",
    "relayed_bytes",
)


class EmbeddedEngine:
    """An `Engine` on descriptors that stay the caller's: it works on copies."""

    def __init__(
        self,
        *,
        udp4_fd: int | None,
        udp6_fd: int | None = None,
        tun_fd: int | None = None,
        private_key: Secret,
        control_ips: Sequence[str],
        mtu: int,
        big_for: Sequence[str] = (),
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        """Start the data plane.

        Args:
            udp4_fd: a bound UDP socket of IPv4, or None.
            udp6_fd: a bound UDP socket of IPv6 with IPV6_V6ONLY, or None.
            tun_fd: a TUN device (IFF_NO_PI, quicker with IFF_VNET_HDR), or None to work without.
            private_key: WireGuard's private key, 32 bytes.
            control_ips: our own overlay addresses, where the control port is.
            mtu: of the TUN, 576 to 65535 bytes.
            big_for: addresses of this host; TCP to those of IPv4 crosses the TUN in packets of more
                than 64 KiB, where the kernel takes them.
            unix_time: wall clock, for `last_handshake_unix`.

        Raises:
            UsageError: an argument is wrong.
            SystemFailure: a descriptor or a thread is refused by the system.
        """
        _check_key(private_key.reveal(), "private key")
        _check_mtu(mtu)
        self._unix_time = unix_time
        with _errors():
            self._plane = DataPlane(
                udp4_fd=udp4_fd,
                udp6_fd=udp6_fd,
                tun_fd=tun_fd,
                private_key=private_key.reveal(),
                control_ips=list(control_ips),
                mtu=mtu,
                big_for=list(big_for),
            )

    def apply(self, command: EngineCommand) -> None:
        """Carry out a command: see `Engine.apply`."""
        if isinstance(command, OpenChannel | CloseChannel | ForwardChannel | EndForwards):
            self._apply_channel(command)
            return
        _check_key(command.public_key, "public key")
        with _errors():
            match command:
                case SetPeer():
                    self._set_peer(command)
                case RemovePeer(public_key):
                    self._plane.remove_peer(public_key)
                case CloseProxy():
                    pass  # it has none
                case StartHandshake(public_key):
                    self._plane.start_handshake(public_key)
                case SendInner(public_key, packet):
                    self._plane.send_inner(public_key, packet)
                case SendProbe(public_key, packet):
                    self._plane.send_probe(public_key, packet)
                case SetPathMtu(public_key, mtu):
                    self._plane.set_path_mtu(public_key, mtu)
                case WatchConsent():
                    self._watch_consent(command)
                case ForgetConsent(public_key):
                    self._plane.forget_consent(public_key)

    def _watch_consent(self, command: WatchConsent) -> None:
        terms, endpoint = command.terms, command.endpoint
        self._plane.watch_consent(
            command.public_key,
            (*endpoint.address, endpoint.source_ip),
            terms.username,
            (terms.local_password.reveal(), terms.remote_password.reveal()),
            terms.attributes,
            terms.controlling,
            terms.interval,
            terms.patience,
        )

    def _apply_channel(self, command: ChannelCommand) -> None:
        with _errors():
            match command:
                case OpenChannel():
                    self._plane.open_channel(*command.server, command.number)
                case CloseChannel(channel):
                    self._plane.close_channel(*channel.server, channel.number)
                case ForwardChannel():
                    self._plane.forward(
                        (*command.client, command.number),
                        _place(command.target),
                        command.life_s,
                        (command.bytes_per_second, command.burst_bytes),
                    )
                case EndForwards(client):
                    self._plane.end_forwards(*client)

    def set_mtu(self, mtu: int) -> None:
        """Follow the TUN's MTU, 576 to 65535 bytes: padding stays below it."""
        _check_mtu(mtu)
        with _errors():
            self._plane.set_mtu(mtu)

    def _set_peer(self, command: SetPeer) -> None:
        endpoint = None
        if command.endpoint is not None:
            endpoint = _place(command.endpoint)
        if command.keepalive_s is not None and not 0 <= command.keepalive_s <= MAX_KEEPALIVE_S:
            raise UsageError(f"keepalive {command.keepalive_s} s is not in 0..{MAX_KEEPALIVE_S}")
        preshared_key = command.preshared_key
        if preshared_key is not None:
            _check_key(preshared_key.reveal(), "preshared key")
        self._plane.set_peer(
            command.public_key,
            list(command.allowed_ips),
            endpoint,
            command.keepalive_s,
            None if preshared_key is None else preshared_key.reveal(),
        )

    def fileno(self) -> int:
        """Return the descriptor that is readable while datagrams or events wait."""
        with _errors():
            return self._plane.fileno()

    def receive(self, limit: int) -> Sequence[Datagram]:
        """Return up to `limit` datagrams that are not WireGuard's; fewer than limit: drained."""
        with _errors():
            return [
                Datagram(data, Address(ip, port), local_ip)
                for data, ip, port, local_ip in self._plane.receive(limit)
            ]

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Send datagrams on the shared port; return how many the sockets took."""
        with _errors():
            return self._plane.send(
                [(item.data, *item.destination, item.source_ip) for item in transmits]
            )

    def poll_event(self) -> EngineEvent | None:
        """Return the next event; call until None."""
        with _errors():
            event = self._plane.poll_event()
        if event is None:
            return None
        kind, public_key, place, packet = event
        address, channel = _split(place)
        if kind == "handshake":
            return HandshakeCompleted(public_key, address, channel)
        if kind == "roamed" and address is not None:
            return EndpointRoamed(public_key, address, channel)
        if kind in ("missed", "answered"):
            seconds = int.from_bytes(packet or b"") / 1e6
            return (ConsentMissed if kind == "missed" else ConsentAnswered)(public_key, seconds)
        if kind == "unanswered":
            return DataUnanswered(public_key, float(int.from_bytes(packet or b"")))
        return InnerReceived(public_key, packet or b"")

    def stats(self) -> EngineStats:
        """Return the counters of all traffic."""
        with _errors():
            counters = dict(self._plane.counters())
            return EngineStats(self._plane.peer_count(), *(counters[name] for name in _TRAFFIC))

    def peer_stats(self) -> list[PeerStats]:
        """Return the counters of each peer."""
        with _errors():
            peers = self._plane.peer_stats()
        unix_now = self._unix_time()
        return [
            PeerStats(
                public_key,
                _split(place)[0],
                rx_bytes,
                tx_bytes,
                None if age is None else unix_now - age,
                age,
                _split(place)[1],
            )
            for public_key, place, rx_bytes, tx_bytes, age in peers
        ]

    def drops(self) -> dict[str, int]:
        """Return how much was dropped or failed, by reason; zeros are left out."""
        with _errors():
            counters = self._plane.counters()
        return {name: count for name, count in counters if count and name not in _TRAFFIC}

    def offloads(self) -> dict[str, bool]:
        """Return which offloads of the kernel are in use: see `Engine.offloads`."""
        with _errors():
            return dict(self._plane.offloads())

    def close(self) -> None:
        """End the threads and wait for them; harmless when closed."""
        self._plane.close()


def _place(endpoint: Endpoint) -> tuple[str, int, str | None, int]:
    return (*endpoint.address, endpoint.source_ip, endpoint.channel)


def _split(place: tuple[str, int, int] | None) -> tuple[Address | None, int]:
    return (None, 0) if place is None else (Address(*place[:2]), place[2])


def _check_key(key: bytes, name: str) -> None:
    if len(key) != KEY_SIZE:
        raise UsageError(f"a {name} has {KEY_SIZE} bytes, not {len(key)}")


def _check_mtu(mtu: int) -> None:
    if not 576 <= mtu <= 65535:
        raise UsageError(f"MTU {mtu} is not in 576..65535")


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the data plane's exceptions into ours."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise UsageError(str(error)) from None
    except (RuntimeError, OSError) as error:
        raise SystemFailure(f"data plane: {error}") from error
