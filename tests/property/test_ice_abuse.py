"""Hostile STUN and TURN at an agent, a port, a STUN client, a TURN client and a member's relay.

Half of what is well formed carries valid integrity. Nothing raises, who proves nothing gets no byte
back, whoever does gets few, and what is kept does not grow with what came.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ginnel.base.addresses import is_public, scope_of, subnet_key
from ginnel.base.links import LinkBytes, OpenLink
from ginnel.base.servers import Transport
from ginnel.base.types import Address, Secret, Transmit
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.allocation import Allocation
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.events import AgentConfig, IceState
from ginnel.ice.port import PortCore
from ginnel.ice.settings import IceSettings
from ginnel.ice.stun import Attribute, MessageClass
from ginnel.ice.stun_client import StunClient
from ginnel.ice.turn import TurnClient
from ginnel.ice.turn_events import TurnConfig
from ginnel.ice.turn_server import MAX_ALLOCATIONS, TurnServer

HOME, PEER = Address("192.168.1.2", 4000), Address("198.51.100.7", 5000)
SERVER, STRANGER = Address("203.0.113.1", 3478), Address("198.51.100.66", 6)
ODD = (
    *(PEER, SERVER, HOME, STRANGER, Address("127.0.0.1", 7), Address("0.0.0.0", 0)),
    *(Address("224.0.0.1", 5), Address("2001:db8::1", 6), Address("::1", 9)),
)
METHODS = (
    *(stun.BINDING, stun.ALLOCATE, stun.REFRESH, stun.SEND, stun.DATA, stun.CREATE_PERMISSION),
    *(stun.CHANNEL_BIND, 0x7F),
)
SEALS = (Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256, Attribute.FINGERPRINT)
KINDS = [int(kind) for kind in Attribute if kind not in SEALS] + [0x7777, 0xC001]
CHALLENGE = [(int(Attribute.REALM), b"r"), (int(Attribute.NONCE), b"n" * 16)]
ITEMS = 80  # datagrams of one example
LONG = 3_000  # datagrams of the long run
CACHED = 5_000  # addresses, more than the process keeps
GROWTH = 200_000  # bytes that may be more in use after the long run than after its first third


class Target:
    """Something under attack: what it is asked with, and what it sent."""

    head: list[tuple[int, bytes]]
    key: bytes
    core: Any
    agent: AgentCore | None = None

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 100.0
        self.ids: list[bytes] = []  # of its open requests, as far as we saw them
        self.sent: list[Transmit] = []

    def revive(self) -> None:
        """Begin again once an agent has failed."""
        agent = self.agent
        if agent is not None and agent.state is IceState.FAILED:
            agent.restart(now=self.now)
            agent.set_remote_credentials("them", "p" * 24, now=self.now)
            agent.start(now=self.now)
            self.head = [(Attribute.USERNAME, f"{agent.ufrag}:them".encode())]
            self.key = agent.pwd.encode()

    def take(self, data: bytes, source: Address) -> None:
        self.core.handle_datagram(data, source, now=self.now)

    def pass_time(self) -> None:
        self.core.handle_timeout(now=self.now)
        self.revive()

    def drain(self) -> Iterable[Transmit]:
        while (out := self.core.poll_transmit()) is not None:
            yield out
        while self.core.poll_event() is not None:
            pass

    def collect(self) -> int:
        """Take what it sends; return how many bytes."""
        size = 0
        for transmit in self.drain():
            size += len(transmit.data)
            if transmit.data[:1] < b"\x40":
                self.ids = [*self.ids[-7:], transmit.data[8:20]]
        return size


class AgentTarget(Target):
    """An agent that checks one pair."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        core = AgentCore(AgentConfig(), controlling=False, random_bytes=rng.randbytes, rng=rng)
        core.add_local_candidate(make_host(HOME), now=self.now)
        core.set_remote_credentials("them", "p" * 24, now=self.now)
        core.add_remote_candidate(make_remote(CandidateKind.HOST, PEER, 9, "f"), now=self.now)
        core.start(now=self.now)
        self.agent = self.core = core
        self.head = [(Attribute.USERNAME, f"{core.ufrag}:them".encode())]
        self.key = core.pwd.encode()


class PortTarget(Target):
    """A port with an agent, a STUN server and a relay over UDP."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        found = IceSettings(urls=(f"stun:{SERVER.ip}", f"turn:{SERVER.ip} user pass"))
        self.core = PortCore(found, random_bytes=rng.randbytes, rng=rng)
        self.core.start([HOME], now=self.now)
        for server in found.servers:
            self.core.add_server(server, [SERVER], now=self.now)
        agent = AgentCore(found, controlling=True, random_bytes=rng.randbytes, rng=rng)
        self.core.add_agent(agent, found, now=self.now)
        agent.set_remote_credentials("them", "p" * 24, now=self.now)
        agent.add_remote_candidate(make_remote(CandidateKind.HOST, PEER, 9, "f"), now=self.now)
        agent.start(now=self.now)
        self.core.settle(now=self.now)
        self.agent = agent
        self.head = [(Attribute.USERNAME, f"{agent.ufrag}:them".encode())]
        self.key = agent.pwd.encode()


class StunClientTarget(Target):
    """Questions to two servers; their answers are never signed."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.head, self.key = [], b"none"
        self.core = StunClient(random_bytes=rng.randbytes, rng=rng)
        self.core.ask([SERVER, Address("203.0.113.2", 3478)], [HOME], now=self.now)


class TurnClientTarget(Target):
    """A TURN client over UDP that wants to write to two peers."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.head = list(CHALLENGE)
        config = TurnConfig(SERVER, "user", Secret(b"pass"), realm="r", nonce=b"n" * 16)
        self.core = TurnClient(config, random_bytes=rng.randbytes, rng=rng)
        self.core.start(now=self.now)
        self.key = stun.long_term_key("user", "r", "pass")

    def take(self, data: bytes, source: Address) -> None:
        self.core.handle_datagram(data, source, now=self.now)
        self.core.send(b"x", PEER, now=self.now)

    def drain(self) -> Iterable[Transmit]:
        while (out := self.core.poll_transmit()) is not None:
            assert out.destination == SERVER
            yield out
        while self.core.poll_event() is not None:
            pass


class StreamTarget(Target):
    """A TURN client over TCP: the bytes come in any pieces."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.head, self.key = list(CHALLENGE), stun.long_term_key("user", "r", "pass")
        config = TurnConfig(
            SERVER, "user", Secret(b"pass"), realm="r", nonce=b"n" * 16, transport=Transport.TCP
        )
        self.core = Allocation(
            config, random_bytes=rng.randbytes, rng=rng, next_link=lambda: rng.randrange(1, 2**30)
        )
        self.core.client.start(now=self.now)

    def take(self, data: bytes, source: Address) -> None:
        cut = self.rng.randrange(len(data) + 1)
        for half in (data[:cut], data[cut:]):
            self.core.on_link(LinkBytes(self.core.link, half), now=self.now)

    def pass_time(self) -> None:
        self.core.client.handle_timeout(now=self.now)

    def drain(self) -> Iterable[Transmit]:
        commands: list[object] = []
        self.core.collect(self.sent.append, commands.append)
        assert not self.sent
        for command in commands:
            if isinstance(command, OpenLink):
                self.core.client.on_connected(now=self.now)
        return ()


class TurnServerTarget(Target):
    """A member's relay, and a member's credentials."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.core = TurnServer(ip=SERVER.ip, random_bytes=rng.randbytes, rng=rng, now=self.now)
        given_ = self.core.issue(b"m", now=self.now)
        self.key = stun.long_term_key(
            given_.username, given_.realm, given_.password.reveal().decode()
        )
        self.head = [
            (Attribute.USERNAME, given_.username.encode()),
            (Attribute.REALM, given_.realm.encode()),
            (Attribute.NONCE, given_.nonce),
        ]

    def take(self, data: bytes, source: Address) -> None:
        self.core.handle_datagram(data, source, now=self.now)
        while (command := self.core.poll_event()) is not None:
            if hasattr(command, "port"):
                self.core.on_port(command.port, self.rng.random() < 0.8, now=self.now)
        while self.core.poll_command() is not None:
            pass
        assert self.core.allocation_count <= MAX_ALLOCATIONS

    def drain(self) -> Iterable[Transmit]:
        while (out := self.core.poll_transmit()) is not None:
            yield out


TARGETS = [
    *(AgentTarget, PortTarget, StunClientTarget, TurnClientTarget, StreamTarget, TurnServerTarget),
]


def plausible(
    target: Target, transaction_id: bytes
) -> tuple[int, MessageClass, list[tuple[int, bytes]]]:
    """Return method, class and attributes that the target has use for."""
    rng = target.rng
    address = stun.encode_address(rng.choice((PEER, STRANGER, SERVER)), transaction_id)
    asks: list[tuple[int, list[tuple[int, bytes]]]] = [
        (
            stun.BINDING,
            [(Attribute.PRIORITY, bytes(3) + b"9"), (Attribute.ICE_CONTROLLING, bytes(8))],
        ),
        (stun.BINDING, [(Attribute.PRIORITY, bytes(3) + b"9"), (Attribute.USE_CANDIDATE, b"")]),
        (stun.ALLOCATE, [(Attribute.REQUESTED_TRANSPORT, b"\x11\0\0\0")]),
        (stun.CREATE_PERMISSION, [(Attribute.XOR_PEER_ADDRESS, address)]),
        (
            stun.CHANNEL_BIND,
            [(Attribute.XOR_PEER_ADDRESS, address), (Attribute.CHANNEL_NUMBER, b"\x40\0\0\0")],
        ),
    ]
    says: list[tuple[int, list[tuple[int, bytes]]]] = [
        (stun.BINDING, [(Attribute.XOR_MAPPED_ADDRESS, address)]),
        (stun.ALLOCATE, [(Attribute.XOR_RELAYED_ADDRESS, address)]),
        (stun.CREATE_PERMISSION, []),
        (stun.CHANNEL_BIND, []),
        (stun.REFRESH, [(Attribute.LIFETIME, bytes(3) + b"9")]),
    ]
    kind = rng.choice((MessageClass.REQUEST, MessageClass.SUCCESS))
    method, attributes = rng.choice(asks if kind is MessageClass.REQUEST else says)
    return method, kind, attributes


def value(rng: random.Random, transaction_id: bytes) -> bytes:
    """Return what an attribute may hold: an address, a number, an error, rubbish."""
    match rng.randrange(6):
        case 0:
            return stun.encode_address(rng.choice(ODD), transaction_id)
        case 1:
            return rng.randrange(0x3FFF, 0x5001).to_bytes(2, "big") + bytes(2)
        case 2:
            return stun.encode_error(rng.choice((300, 401, 403, 437, 438, 441, 442, 486, 487)), "")
        case 3:
            return rng.randrange(2**32).to_bytes(4, "big")
        case 4:
            return b"\x11\0\0\0"
        case _:
            return rng.randbytes(rng.randrange(60))


def make(target: Target, *, is_known: bool) -> tuple[bytes, bool]:
    """Return a datagram, and whether it proves that its sender holds our keys.

    `is_known`: its maker has seen what we sent, so it knows ids of open requests.
    """
    rng = target.rng
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(200)), False
    if kind == 1:
        data = rng.randbytes(rng.randrange(80))
        number = rng.randrange(0x4000, 0x5000)
        return number.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data, False
    has_id = is_known and bool(target.ids) and rng.random() < 0.6
    transaction_id = rng.choice(target.ids) if has_id else rng.randbytes(12)
    extra = [(rng.choice(KINDS), value(rng, transaction_id)) for _ in range(rng.randrange(7))]
    method, message_class = rng.choice(METHODS), rng.choice(list(MessageClass))
    if rng.random() < 0.5:
        method, message_class, extra = plausible(target, transaction_id)
    is_signed = rng.random() < 0.5
    data = stun.encode_message(
        message_class,
        transaction_id,
        [*(target.head if is_signed or rng.random() < 0.3 else []), *extra],
        key=target.key if is_signed else None,
        method=method,
        fingerprint=rng.random() < 0.7,
        sha256=rng.random() < 0.2,
    )
    if kind == 2 and len(data) > 20:  # spoilt on the way
        spoilt = bytearray(data)
        spoilt[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        return bytes(spoilt[: rng.randrange(1, len(data) + 1)]), False
    return data, is_signed


@pytest.mark.parametrize("kind", TARGETS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_raises_and_who_proves_nothing_gets_no_byte(kind: type[Target], seed: int) -> None:
    rng = random.Random(seed)
    target = kind(rng)
    target.collect()
    for _ in range(ITEMS):
        # Off the path: no id of an open request is known, and any source can be written.
        data, is_signed = make(target, is_known=False)
        target.take(data, rng.choice((PEER, SERVER, STRANGER, *ODD)))
        size = target.collect()
        if not is_signed:
            assert size == 0, (kind, seed)
        else:
            assert size <= 4 * len(data) + 400, (kind, seed)


@pytest.mark.parametrize("kind", TARGETS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_who_sees_our_requests_makes_us_send_little(kind: type[Target], seed: int) -> None:
    rng = random.Random(seed)
    target = kind(rng)
    target.collect()
    size_in = size_out = 0
    for _ in range(ITEMS):
        data, _ = make(target, is_known=True)
        size_in += len(data)
        target.take(data, rng.choice((PEER, SERVER, STRANGER, *ODD)))
        size_out += target.collect()
        if rng.random() < 0.1:
            target.now += rng.choice((0.01, 0.5, 20.0, 700.0))
            target.pass_time()
            target.collect()  # its own doing
    assert size_out <= 2 * size_in, (kind, seed)


def fill_caches() -> None:
    """Fill what is kept about addresses in the whole process: it grows by leaps, to its bound."""
    for number in range(CACHED):
        ip = f"100.64.{number >> 8}.{number & 255}"
        for function in (scope_of, is_public, subnet_key):
            function(ip)


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_kept_does_not_grow(kind: type[Target]) -> None:
    rng = random.Random(5)
    target = kind(rng)
    target.collect()
    answered = 0
    fill_caches()
    tracemalloc.start()
    try:
        for number in range(LONG):
            if number == LONG // 3:
                before = tracemalloc.get_traced_memory()[0]
            source = Address(f"198.51.{number % 250}.{rng.randrange(1, 250)}", rng.randrange(1, 9))
            data, _ = make(target, is_known=True)
            target.take(data, rng.choice((PEER, SERVER, source)))
            answered += target.collect() > 0
            target.now += 0.05
            target.pass_time()
            target.collect()
        assert tracemalloc.get_traced_memory()[0] - before < GROWTH
        answers = kind in (AgentTarget, PortTarget, TurnClientTarget, TurnServerTarget)
        assert answered > 10 or not answers  # the attack reaches what answers
    finally:
        tracemalloc.stop()
