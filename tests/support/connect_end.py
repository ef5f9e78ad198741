"""One end of a connection, run on a lab machine: the product's peer connection with its data plane.

    python connect_end.py '{"role": "controlling", "mode": "cold", "stun": [...], "turn": {...}}'

`stun`: IP:port of servers, the first of which also answers from another port (RFC 5780). `turn`:
URI, user, password, or null; `authority`: a file that vouches for it over TLS. `mode`: whether
addresses are gathered before the start. It speaks lines of JSON: in come {"go": true} and
{"signal": VALUE}, out go {"ready": true}, {"signal": VALUE}, {"reason": TEXT} and
{"connected": {...}}; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ginnel.base.core import earliest
from ginnel.base.dataplane import DatagramKind, EndpointRoamed, HandshakeCompleted, SetPeer
from ginnel.base.demux import classify
from ginnel.base.servers import Transport, parse_turn_uri
from ginnel.base.types import Address, Deadline, Secret, Transmit, make_address, parse_address
from ginnel.engine.embedded import EmbeddedEngine
from ginnel.engine.relayed import RelayedEngine
from ginnel.ice import stun
from ginnel.ice.candidate import RELAY_PREFERENCES, Candidate, make_relayed
from ginnel.ice.framing import StreamSplitter, frame
from ginnel.ice.gather import gather_candidates
from ginnel.ice.turn import TurnClient
from ginnel.ice.turn_events import (
    ConnectionOver,
    ConnectionWanted,
    RelayReceived,
    TurnConfig,
)
from ginnel.net.driver import Driver
from ginnel.net.interfaces import host_addresses
from ginnel.net.link import LinkHandlers, StreamLink, make_tls_context
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import (
    ConnConfig,
    Connected,
    ConnEvent,
    Engine,
    PeerStateChanged,
    SendAnswer,
    SendCandidates,
    SendOffer,
)
from ginnel.peer.signal import (
    decode_candidates,
    decode_offer,
    encode_candidates,
    encode_offer,
)
from ginnel.peer.status import PeerState

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.connect_observers import Observers  # needs the path above

MTU = 1420  # bytes; Ginnel's default
KEYS = (b"\x01" * 32, b"\x02" * 32)


@dataclass(frozen=True)
class LinkSend:
    """Bytes for the connection to the TURN server."""

    data: bytes


PeerEvent: TypeAlias = ConnEvent | ConnectionWanted | ConnectionOver | LinkSend


class PeerCore:
    """Connection, TURN client and observers on one port, as one core."""

    def __init__(
        self,
        conn: ConnCore,
        turn: TurnClient | None,
        observers: Observers,
        ips: Sequence[str],
        port: int,
    ) -> None:
        self.conn, self.turn, self.observers = conn, turn, observers
        self.ips, self.port = tuple(ips), port
        self.relayed: deque[tuple[Address, Address, bytes]] = deque()
        self._link: deque[ConnectionWanted | ConnectionOver] = deque()
        self.is_telling = False  # the connection may know our addresses
        self._told: tuple[object, ...] = ()
        self.gathered = asyncio.Event()  # all addresses are known

    def candidates(self) -> list[Candidate]:
        """Return our addresses as far as they are known."""
        mapped = list(dict.fromkeys(self.observers.seen.values()))
        found = gather_candidates(self.ips, self.port, mapped)
        if self.turn is not None and self.turn.relayed is not None:
            preference = RELAY_PREFERENCES[self.turn.config.transport]
            found.append(make_relayed(self.turn.relayed, self.turn.mapped, preference))
        return found

    def gather(self, now: float) -> None:
        """Ask all servers."""
        self.observers.start(now)
        if self.turn is not None:
            self.turn.start(now=now)

    def tell(self, now: float) -> None:
        """Tell the connection what is known now."""
        if not self.is_telling:
            return
        found = self.candidates()
        symmetric = len({a for a in self.observers.seen.values() if not a.is_ipv6}) > 1
        restricted = self.observers.restricted
        state = (tuple(found), symmetric, restricted)
        if state != self._told:
            self._told = state
            self.conn.set_local_candidates(
                found, now=now, symmetric=symmetric, restricted=restricted
            )

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram."""
        turn = self.turn
        kind = classify(data, turn.knows_channel if turn is not None else None)
        if kind is DatagramKind.CHANNEL_DATA and turn is not None:
            turn.handle_datagram(data, source, now=now)
        elif kind is DatagramKind.STUN:
            message = stun.decode_message(data)
            if self.observers.owns(message):
                self.observers.handle(message, now)
            elif turn is not None and turn.owns(message, source):
                turn.handle_message(message, now=now)
            else:
                self.conn.handle_message(message, source, now=now, local_ip=local_ip)
        self._settle(now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        self.observers.handle_timeout(now)
        if self.turn is not None:
            self.turn.handle_timeout(now=now)
        self.conn.handle_timeout(now=now)
        self._settle(now)

    def send_relayed(self, transmit: Transmit, now: float) -> None:
        """Send through the relay."""
        if self.turn is not None:
            self.turn.send(transmit.data, transmit.destination, now=now)

    def _settle(self, now: float) -> None:
        turn = self.turn
        while turn is not None and (event := turn.poll_event()) is not None:
            if isinstance(event, RelayReceived) and turn.relayed is not None:
                self._on_relayed(turn.relayed, event, now)
            elif isinstance(event, ConnectionWanted | ConnectionOver):
                self._link.append(event)
        if self.observers.is_done and (turn is None or turn.relayed is not None):
            self.gathered.set()
        self.tell(now)
        self.pass_on(now)

    def _on_relayed(self, relayed: Address, event: RelayReceived, now: float) -> None:
        if classify(event.data) is DatagramKind.STUN:
            message = stun.decode_message(event.data)
            self.conn.handle_message(message, event.peer, now=now, relayed=relayed)
        else:
            self.relayed.append((relayed, event.peer, event.data))

    def pass_on(self, now: float) -> None:
        """Sort what the connection sends."""
        while (transmit := self.conn.poll_transmit()) is not None:
            if transmit.relayed_from is None:
                self.observers.out.append(transmit)
            else:
                self.send_relayed(transmit, now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send."""
        out = self.observers.out
        if out or self.turn is None or self.turn.config.transport.is_stream:
            return out.popleft() if out else None
        return self.turn.poll_transmit()

    def poll_event(self) -> PeerEvent | None:
        """Return the next event of the connection, or for the link to the TURN server."""
        turn = self.turn
        if turn is not None and turn.config.transport.is_stream:
            transmit = turn.poll_transmit()
            if transmit is not None:
                return LinkSend(frame(transmit.data))
        return self._link.popleft() if self._link else self.conn.poll_event()

    def on_link_open(self, now: float) -> None:
        """Take that the connection to the TURN server is there."""
        if self.turn is not None:
            self.turn.on_connected(now=now)
        self._settle(now)

    def on_link_lost(self, reason: str, now: float) -> None:
        """Take that the connection to the TURN server is over."""
        if self.turn is not None:
            self.turn.on_disconnected(reason, now=now)
        self._settle(now)

    def poll_deadline(self) -> Deadline | None:
        """Return when something is due."""
        turn = None if self.turn is None else self.turn.poll_deadline()
        return earliest(self.conn.poll_deadline(), turn, self.observers.poll_deadline())


class Peer:
    """The process: standard input and output, the data plane, the driver."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._is_known = options["mode"] == "known"
        publics = [
            X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw() for key in KEYS
        ]
        controlling = publics.index(max(publics))  # the larger key controls
        number = controlling if options["role"] == "controlling" else 1 - controlling
        ips = [address.ip for address in host_addresses(())]
        self._sockets = _open_sockets(any(":" in ip for ip in ips))
        port = self._sockets[0].getsockname()[1]
        chance: dict[str, Any] = {"random_bytes": os.urandom, "rng": random.Random()}
        turn = None
        if options["turn"] is not None:
            server = parse_turn_uri(*options["turn"])
            config = TurnConfig(
                make_address(server.host, server.port),
                server.username,
                server.password,
                transport=server.transport,
                host=server.host,
            )
            turn = TurnClient(config, **chance)
        self._authority = options["authority"]
        self._link: StreamLink | None = None
        self._tasks: asyncio.TaskGroup | None = None
        allowed = (f"100.64.0.{2 - number}/32",)
        conn = ConnCore(ConnConfig(publics[1 - number], publics[number], allowed), **chance)
        usable = [_family_of(":" in ip) for ip in ips]
        servers = [parse_address(text) for text in options["stun"]]
        observers = Observers([s for s in servers if _family_of(s.is_ipv6) in usable])
        self.core = PeerCore(conn, turn, observers, ips, port)
        plane = EmbeddedEngine(
            udp4_fd=self._sockets[0].fileno(),
            udp6_fd=self._sockets[1].fileno() if len(self._sockets) > 1 else None,
            private_key=Secret(KEYS[number]),
            control_ips=[f"100.64.0.{number + 1}"],
            mtu=MTU,
        )
        self._engine = RelayedEngine(plane, port=port, send=self._send_relayed)
        self._driver: Driver[PeerEvent] = Driver(
            self.core, self._engine, self._on_event, after_receive=self._take_engine_events
        )
        self._reason = ""
        self._began = 0.0
        self._path_s: float | None = None  # until WireGuard was given a path
        self._tunnel_s = 0.0  # until WireGuard was heard on it
        self._told_path: tuple[Candidate, Candidate] | None = None

    async def run(self) -> None:
        """Gather, then do what comes by standard input, until its end."""
        async with asyncio.TaskGroup() as self._tasks:
            await self._serve()
            if self._link is not None:
                self._link.close()

    async def _serve(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self._driver.start()
        if self._is_known:
            self.core.gather(self._driver.now())
            self._driver.wake()
            await self.core.gathered.wait()
        tell({"ready": True})
        while line := await reader.readline():
            got = json.loads(line)
            now = self._driver.now()
            if got.get("go"):
                self._go(now)
            else:
                self._on_signal(got["signal"], now)
            self.core.pass_on(now)
            self._driver.wake()
        self._driver.stop()
        self._engine.close()

    def _go(self, now: float) -> None:
        self._began = time.monotonic()
        if not self._is_known:
            self.core.gather(now)
        self.core.is_telling = True
        self.core.tell(now)
        self.core.conn.open(now)

    def _on_signal(self, signal: dict[str, str], now: float) -> None:
        conn = self.core.conn
        payload = base64.b64decode(signal["payload"])
        if signal["kind"] == "offer":
            conn.on_remote_offer(decode_offer(payload), now=now)
        elif signal["kind"] == "answer":
            conn.on_remote_answer(decode_offer(payload), now=now)
        else:
            session, candidates, nat = decode_candidates(payload)
            conn.on_remote_candidates(session, candidates, now=now, nat=nat)

    def _on_event(self, event: PeerEvent) -> None:
        if isinstance(event, ConnectionWanted):
            self._open_link()
        elif isinstance(event, LinkSend | ConnectionOver):
            if self._link is not None and isinstance(event, LinkSend):
                self._link.send(event.data)
            elif self._link is not None:
                self._link.close()
        elif isinstance(event, SendOffer):
            signal("offer", encode_offer(event.offer))
        elif isinstance(event, SendAnswer):
            signal("answer", encode_offer(event.answer))
        elif isinstance(event, SendCandidates):
            signal("candidates", encode_candidates(event.session, event.candidates, event.nat))
        elif isinstance(event, Engine):
            self._engine.apply(event.command)
            is_path = isinstance(event.command, SetPeer) and event.command.endpoint is not None
            if is_path and self._path_s is None:
                self._path_s = time.monotonic() - self._began
        elif isinstance(event, Connected):
            self._tell_connected()
        elif isinstance(event, PeerStateChanged):
            self._on_state(event.state)

    def _on_state(self, state: PeerState) -> None:
        if state.reason != self._reason:
            self._reason = state.reason
            tell({"reason": self._reason})
        if self._told_path is not None and self.core.conn.path not in (None, self._told_path):
            self._tell_connected()  # it moved, or it is known now what the far end is

    def _open_link(self) -> None:
        """Connect to the TURN server."""
        assert self.core.turn is not None
        assert self._tasks is not None
        config, splitter = self.core.turn.config, StreamSplitter()
        is_tls = config.transport is Transport.TLS

        def take(data: bytes) -> None:
            for item in splitter.feed(data):
                self.core.handle_datagram(item, config.server, now=self._driver.now())
            self._take_engine_events()
            self._driver.wake()

        def change(step: Callable[[float], None]) -> None:
            step(self._driver.now())
            self._driver.wake()

        handlers = LinkHandlers(
            on_open=lambda: change(self.core.on_link_open),
            on_bytes=take,
            on_lost=lambda reason: change(lambda now: self.core.on_link_lost(reason, now)),
        )
        tls = make_tls_context(Path(self._authority)) if is_tls else None
        self._link = StreamLink(config.server, handlers, tls=tls, host=config.host)
        self._tasks.create_task(self._link.run())

    def _tell_connected(self) -> None:
        path = self.core.conn.path
        assert path is not None
        assert self._path_s is not None
        self._told_path = path
        self._tunnel_s = self._tunnel_s or time.monotonic() - self._began
        kinds = [candidate.kind.name.lower() for candidate in path]
        tell(
            {
                "connected": {
                    "seconds": self._path_s,
                    "local": kinds[0],
                    "remote": kinds[1],
                    "tunnel_seconds": self._tunnel_s,
                    "why": self.core.conn.state.why_relayed,
                }
            }
        )

    def _take_engine_events(self) -> None:
        now = self._driver.now()
        while (event := self._engine.poll_event()) is not None:
            if isinstance(event, HandshakeCompleted | EndpointRoamed):
                self.core.conn.on_engine_event(event, now=now)
        while self.core.relayed:
            self._engine.deliver(*self.core.relayed.popleft())

    def _send_relayed(self, transmit: Transmit) -> None:
        self.core.send_relayed(transmit, self._driver.now())


def _family_of(is_ipv6: bool) -> int:
    return socket.AF_INET6 if is_ipv6 else socket.AF_INET


def _open_sockets(with_ipv6: bool) -> list[socket.socket]:
    """Bind one port, for both families if wanted."""
    udp4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp4.bind(("", 0))
    if not with_ipv6:
        return [udp4]
    udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    udp6.bind(("::", udp4.getsockname()[1]))
    return [udp4, udp6]


def tell(value: dict[str, Any]) -> None:
    """Write one line."""
    print(json.dumps(value), flush=True)


def signal(kind: str, payload: bytes) -> None:
    """Signal a payload to the other peer."""
    tell({"signal": {"kind": kind, "payload": base64.b64encode(payload).decode()}})


if __name__ == "__main__":
    asyncio.run(Peer(json.loads(sys.argv[1])).run())
