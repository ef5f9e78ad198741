"""Relays among the members: who serves, who asks, and the allocations at those in use.

A member whose certificate has the relay bit serves the others on its shared port. Who has a direct
path to such a member asks it for credentials (a sealed message of kind relay), allocates there over
the same path, and offers the address to all other peers. All take the same relays, those of the
lowest member ids, so both ends of a pair meet at one. TURN servers from the settings add to these;
to those over TCP and TLS there are links, which others make (`poll_link`, `on_link`).

Source: DESIGN, "Peer connection" (Relays).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ginnel.base.addresses import is_public
from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable, earliest
from ginnel.base.dataplane import ChannelCommand, CloseChannel, OpenChannel
from ginnel.base.links import LinkCommand, LinkEvent
from ginnel.base.servers import DEFAULT_PORTS, PortRange
from ginnel.base.types import Address, Deadline, MemberId, Transmit
from ginnel.ice.allocation import Allocation
from ginnel.ice.candidate import RELAY_PREFERENCES, Candidate, make_relayed
from ginnel.ice.channels import LOWER_CHANNELS, UPPER_CHANNELS
from ginnel.ice.stun import Message
from ginnel.ice.turn import TurnClient
from ginnel.ice.turn_events import (
    Allocated,
    AllocationLost,
    ChannelClosed,
    ChannelOpened,
    PeerRefused,
    RelayReceived,
    TurnConfig,
)
from ginnel.ice.turn_ports import FreePort, PortCommand
from ginnel.ice.turn_server import TurnServer
from ginnel.mesh.relay_events import (
    AddressesChanged,
    Arrived,
    Refused,
    RelayPath,
    RelaysEvent,
    SendMessage,
)
from ginnel.mesh.relay_wire import Grant, RelayWord, decode_relay, encode_grant, encode_word

MAX_RELAYS = 2  # used at once; a second so that the first may go down
ASK_AGAIN_S = 5.0  # seconds until an unanswered question is asked again
REFUSED_AGAIN_S = 600.0  # seconds until a relay that refused is asked again
RENEW_S = 11 * 3600.0  # seconds until new credentials are asked for; they live 12 h
MAX_SERVERS = 4  # configured ones
MAX_FOREIGN = 256  # datagrams of the DHT that came through a relay, until they are taken

_NOBODY = MemberId(b"")  # in the place of a member, for a configured server


@dataclass(eq=False, slots=True)
class _Relay:
    path: RelayPath
    ask_at: float
    config: TurnConfig | None = None
    allocation: Allocation | None = None

    @property
    def client(self) -> TurnClient | None:
        """Return what asks there, if we do."""
        return self.allocation.client if self.allocation is not None else None

    @property
    def is_datagram(self) -> bool:
        """Say whether it is reached over UDP, from the shared port."""
        return self.config is None or not self.config.transport.is_stream


class Relays:
    """All relaying of one member; `serve` begins and ends its own."""

    def __init__(
        self, *, random_bytes: RandomBytes, rng: Rng, ports: PortRange = DEFAULT_PORTS
    ) -> None:
        self.server: TurnServer | None = None
        self._ports = ports
        self._random_bytes = random_bytes
        self._rng = rng
        self._own_ip = ""
        self._own_ips: frozenset[str] = frozenset()  # that packets can be sent from
        self._relays: dict[MemberId, _Relay] = {}
        self._servers: list[_Relay] = []  # configured, no members
        self._timers: TimerTable[str] = TimerTable()
        self._out: deque[Transmit] = deque()
        self._events: deque[RelaysEvent] = deque()
        self._links: deque[LinkCommand | PortCommand] = deque()
        self._commands: deque[ChannelCommand] = deque()
        self._last_link = 0
        self._foreign: deque[tuple[bytes, Address]] = deque(maxlen=MAX_FOREIGN)

    # Serving

    def serve(self, is_wanted: bool, *, now: float) -> None:
        """Be a relay, or be none; it begins once an address of ours is known."""
        if not is_wanted or not self._own_ip:
            self._end_server()
        elif self.server is None:
            self.server = TurnServer(
                ip=self._own_ip,
                random_bytes=self._random_bytes,
                rng=self._rng,
                now=now,
                ports=self._ports,
            )

    def set_own_addresses(self, candidates: Sequence[Candidate]) -> None:
        """Tell our addresses: relayed ones show a public one, the same as long as we have it."""
        ips = [c.address.ip for c in candidates if not c.is_relayed]
        self._own_ips = frozenset(c.base.ip for c in candidates if not c.is_relayed)
        is_used = self.server is not None and self.server.allocation_count > 0
        is_poor = not (self._own_ip and is_public(self._own_ip))
        if self._own_ip not in ips or (is_poor and not is_used):
            self._own_ip = min(ips, key=lambda ip: (not is_public(ip), ":" in ip), default="")
            if self.server is not None and self._own_ip:
                self.server.set_ip(self._own_ip)
                self._drain_server()

    def revoke(self, member_id: MemberId) -> None:
        """A member is one no more: it may not relay here, nor do we relay there."""
        if self.server is not None:
            self.server.revoke(member_id)
            self._drain_server()

    def on_port(self, port: int, is_held: bool, *, now: float) -> None:
        """Take what became of a `HoldPort`."""
        if self.server is not None:
            self.server.on_port(port, is_held, now=now)
            self._drain_server()
        elif is_held:
            self._links.append(FreePort(port))

    # Using

    def add_server(self, config: TurnConfig, *, now: float) -> None:
        """Use a TURN server that is no member, whatever members relay; peers are offered it too."""
        path = RelayPath(_NOBODY, config.server, config.source_ip)
        is_new = all(
            (s.path, s.config and s.config.transport) != (path, config.transport)
            for s in self._servers
        )
        if len(self._servers) < MAX_SERVERS and is_new:
            server = _Relay(path, float("inf"))
            self._servers.append(server)
            self._connect(server, config, now)

    def set_paths(self, paths: Sequence[RelayPath], *, now: float) -> None:
        """Tell to which relays there are direct paths now."""
        wanted = {path.member_id: path for path in sorted(paths, key=lambda p: p.member_id)}
        wanted = dict(list(wanted.items())[:MAX_RELAYS])
        for member_id in [m for m in self._relays if m not in wanted]:
            self._drop_client(self._relays.pop(member_id), now)
        for member_id, path in wanted.items():
            relay = self._relays.get(member_id)
            if relay is None:
                self._relays[member_id] = _Relay(path, now)
            elif relay.path != path and not self._may_stay(relay, path):
                self._drop_client(relay, now)
                relay.path = path
                if relay.config is not None:
                    self._connect(relay, relay.config, now)
        self._ask(now)

    def _may_stay(self, relay: _Relay, path: RelayPath) -> bool:
        """Say whether an allocation is kept on the path that was left: pairs may be in use."""
        is_allocated = relay.client is not None and relay.client.relayed is not None
        old = relay.path
        is_there = old.address == path.address and old.source_ip in (path.source_ip, *self._own_ips)
        return is_allocated and is_there and (path.is_choice or old.source_ip == path.source_ip)

    def candidates(self, besides: MemberId | None = None) -> tuple[Candidate, ...]:
        """Return our addresses at relays; `besides`: but those at this member."""
        found = []
        for relay in self._all():
            client, member_id = relay.client, relay.path.member_id
            if client is not None and client.relayed is not None and member_id != besides:
                preference = RELAY_PREFERENCES[client.config.transport]
                found.append(make_relayed(client.relayed, client.mapped, preference))
        return tuple(found)

    def send(self, transmit: Transmit, *, now: float) -> bool:
        """Send a datagram from our address at a relay (`relayed_from`)."""
        for relay in self._all():
            client = relay.client
            if client is not None and client.relayed == transmit.relayed_from:
                sent = client.send(transmit.data, transmit.destination, now=now)
                self._drain(relay, now)
                return sent
        return False

    def knows_channel(self, source: Address, number: int) -> bool:
        """Say whether ChannelData of this source and number is for us."""
        if self.server is not None and self.server.knows_channel(source, number):
            return True
        client = self._client_of(source)
        return client is not None and client.knows_channel(number)

    def on_message(self, member_id: MemberId, payload: bytes, *, now: float) -> None:
        """Take a message of kind relay.

        Raises:
            RemoteProtocolError: malformed.
        """
        what = decode_relay(payload)
        if what is RelayWord.ASKS:
            self._events.append(SendMessage(member_id, self._answer(member_id, now)))
            return
        relay = self._relays.get(member_id)
        if relay is None:
            return
        if what is RelayWord.REFUSES:
            relay.ask_at = now + REFUSED_AGAIN_S
        elif isinstance(what, Grant):
            self._on_granted(relay, what, now)
        self._arm()

    # Datagrams of the shared port

    def handle_message(
        self, message: Message, source: Address, *, now: float, local_ip: str | None
    ) -> bool:
        """Take a STUN message if it is TURN's; return whether it was."""
        if self.server is not None and self.server.owns(message, source):
            self.server.handle_message(message, source, now=now, local_ip=local_ip)
            self._drain_server()
            return True
        for relay in self._all():
            is_there = relay.client is not None and relay.is_datagram
            if is_there and relay.client is not None and relay.client.owns(message, source):
                relay.client.handle_message(message, now=now)
                self._drain(relay, now)
                return True
        return False

    def handle_channel_data(self, data: bytes, source: Address, *, now: float) -> None:
        """Take ChannelData that `knows_channel` said is ours."""
        if self.server is not None and self.server.knows_channel(
            source, int.from_bytes(data[:2], "big")
        ):
            self.server.handle_datagram(data, source, now=now)
            self._drain_server()
            return
        for relay in self._all():
            is_there = relay.is_datagram and relay.path.address == source
            if relay.client is not None and is_there:
                relay.client.handle_datagram(data, source, now=now)
                self._drain(relay, now)
                return

    # Connections to servers over TCP and TLS

    def stream_address(self, *, ipv6: bool) -> Address | None:
        """Return an address of ours at a relay that is reached without UDP, or None."""
        for relay in self._all():
            relayed = relay.client.relayed if relay.client is not None else None
            if relayed is not None and not relay.is_datagram and relayed.is_ipv6 == ipv6:
                return relayed
        return None

    def why_no_address(self) -> str:
        """Return in words why servers of the settings gave us no address; empty if they did."""
        clients = [(s.path.address, s.client) for s in self._servers if s.client is not None]
        failed = [f"{at}: {c.failure}" for at, c in clients if c.relayed is None and c.failure]
        return "; ".join(failed)

    def on_link(self, event: LinkEvent, *, now: float) -> None:
        """Take what became of a connection; what comes late is ignored."""
        for relay in self._servers:
            if relay.allocation is not None and relay.allocation.link == event.link:
                relay.allocation.on_link(event, now=now)
                self._drain(relay, now)

    def keep_foreign(self, arrived: Arrived) -> None:
        """Keep a datagram of the DHT until it is taken."""
        self._foreign.append((arrived.data, arrived.peer))

    def poll_foreign(self) -> tuple[bytes, Address] | None:
        """Return the next datagram (with its source) that came through a relay for the DHT."""
        return self._foreign.popleft() if self._foreign else None

    def poll_link(self) -> LinkCommand | PortCommand | None:
        """Return the next command for connections and ports; call until None."""
        return self._links.popleft() if self._links else None

    def poll_command(self) -> ChannelCommand | None:
        """Return the next command for the data plane; call until None."""
        return self._commands.popleft() if self._commands else None

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        if self.server is not None:
            self.server.handle_timeout(now=now)
            self._drain_server()
        for relay in self._all():
            deadline = relay.client.poll_deadline() if relay.client is not None else None
            if relay.client is not None and deadline is not None and deadline.at <= now:
                relay.client.handle_timeout(now=now)
                self._drain(relay, now)
        if any(True for _ in self._timers.expire(now)):
            self._ask(now)

    def close(self, *, now: float) -> None:
        """Give all allocations back."""
        self.set_paths((), now=now)
        for server in self._servers:
            self._drop_client(server, now)
        self._servers.clear()
        self._end_server()
        self._timers = TimerTable()

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send on the shared port."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> RelaysEvent | None:
        """Return the next event; call until None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        clients = [r.client.poll_deadline() for r in self._all() if r.client is not None]
        server = self.server.poll_deadline() if self.server is not None else None
        return earliest(self._timers.deadline(), server, *clients)

    # Inside

    def _answer(self, member_id: MemberId, now: float) -> bytes:
        if self.server is None:
            return encode_word(RelayWord.REFUSES)
        return encode_grant(self.server.issue(member_id, now=now), now=now)

    def _on_granted(self, relay: _Relay, grant: Grant, now: float) -> None:
        relay.ask_at = now + min(RENEW_S, grant.life_s * RENEW_S / (12 * 3600))
        config = TurnConfig(
            relay.path.address,
            grant.username,
            grant.password,
            relay.path.source_ip,
            realm=grant.realm,
            nonce=grant.nonce,
            channels=UPPER_CHANNELS if relay.path.is_controlling else LOWER_CHANNELS,
        )
        if relay.client is not None and relay.client.relayed is not None:
            relay.config = config
            relay.client.renew(config)
            return
        self._drop_client(relay, now)
        self._connect(relay, config, now)

    def _connect(self, relay: _Relay, config: TurnConfig, now: float) -> None:
        path = relay.path
        relay.config = replace(config, server=path.address, source_ip=path.source_ip)
        relay.allocation = Allocation(
            relay.config,
            random_bytes=self._random_bytes,
            rng=self._rng,
            next_link=self._next_link,
        )
        relay.allocation.client.start(now=now)
        self._drain(relay, now)

    def _drop_client(self, relay: _Relay, now: float) -> None:
        allocation, relay.allocation = relay.allocation, None
        if allocation is None:
            return
        had_address = allocation.relayed is not None
        allocation.client.close(now=now)
        for event in allocation.collect(self._out.append, self._links.append):
            if isinstance(event, ChannelClosed):
                self._on_channel(allocation, event)
        if had_address:
            self._events.append(AddressesChanged())

    def _ask(self, now: float) -> None:
        for member_id, relay in self._relays.items():
            if relay.ask_at <= now:
                relay.ask_at = now + ASK_AGAIN_S
                self._events.append(SendMessage(member_id, encode_word(RelayWord.ASKS)))
        self._arm()

    def _arm(self) -> None:
        ask_at = min((relay.ask_at for relay in self._relays.values()), default=None)
        if ask_at is None:
            self._timers.stop("ask")
        else:
            self._timers.set("ask", ask_at)

    def _all(self) -> list[_Relay]:
        return [*self._relays.values(), *self._servers]

    def _client_of(self, source: Address) -> TurnClient | None:
        for relay in self._all():
            if relay.path.address == source and relay.is_datagram:
                return relay.client
        return None

    def _end_server(self) -> None:
        if self.server is not None:
            self.server.close()
            self._drain_server()
            self.server = None

    def _drain_server(self) -> None:
        while self.server is not None and (out := self.server.poll_transmit()) is not None:
            self._out.append(out)
        while self.server is not None and (command := self.server.poll_event()) is not None:
            self._links.append(command)
        while self.server is not None and (channel := self.server.poll_command()) is not None:
            self._commands.append(channel)

    def _next_link(self) -> int:
        self._last_link += 1
        return self._last_link

    def _drain(self, relay: _Relay, now: float) -> None:
        allocation = relay.allocation
        if allocation is None:
            return
        for event in allocation.collect(self._out.append, self._links.append):
            relayed = allocation.relayed
            match event:
                case RelayReceived(peer, data) if relayed is not None:
                    self._events.append(Arrived(relayed, peer, data))
                case PeerRefused(peer, reason) if relayed is not None:
                    self._events.append(Refused(relayed, peer, reason))
                case ChannelOpened() | ChannelClosed():
                    self._on_channel(allocation, event)
                case Allocated() | AllocationLost():
                    self._on_allocation(relay, event, now)

    def _on_channel(self, at: Allocation, event: ChannelOpened | ChannelClosed) -> None:
        """Let the data plane use a channel of a server that it reaches itself."""
        if not at.is_datagram:
            return
        server, source_ip = at.client.config.server, at.client.config.source_ip
        channel = OpenChannel(event.relayed, event.peer, server, source_ip, event.number)
        is_open = isinstance(event, ChannelOpened)
        self._commands.append(channel if is_open else CloseChannel(channel))

    def _on_allocation(self, relay: _Relay, event: Allocated | AllocationLost, now: float) -> None:
        if event.relayed is not None:
            self._events.append(AddressesChanged())
        if isinstance(event, AllocationLost) and relay.path.member_id:  # it may have restarted
            relay.ask_at = min(relay.ask_at, now + ASK_AGAIN_S)
            self._arm()
