"""The core that keeps a port mapped, against gateways written by hand, on virtual time."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from ginnel.base.types import Address
from ginnel.net.portmap import (
    AGAIN_S,
    GIVE_UP_S,
    GIVE_UP_SOON_S,
    LEASE_S,
    Mapped,
    PortMapConfig,
    PortMapCore,
    PortMapDrop,
    PortMapEvent,
    Protocol,
    Unserved,
)

GATEWAY = Address("192.168.1.1", 5351)
PORT = 4000
OUTER = "203.0.113.5"
V4_MAPPED = bytes(10) + b"\xff\xff"
OUTER_BYTES = bytes((203, 0, 113, 5))

Answer = Callable[[bytes, float], bytes | None]


class Play:
    """A core, a gateway and a clock."""

    def __init__(
        self,
        answer: Answer,
        protocols: tuple[Protocol, ...] | None = None,
        *,
        gives_up_soon: bool = False,
    ) -> None:
        self.now = 100.0
        self.answer = answer
        self.sent: list[tuple[float, bytes]] = []
        self.events: list[tuple[float, PortMapEvent]] = []
        config = PortMapConfig(GATEWAY, "192.168.1.2", PORT, gives_up_soon=gives_up_soon)
        if protocols is not None:
            config = PortMapConfig(GATEWAY, "192.168.1.2", PORT, protocols=protocols)
        rng = random.Random(1)
        self.core = PortMapCore(config, random_bytes=rng.randbytes, rng=rng, now=self.now)
        self.drain()

    def drain(self) -> None:
        while (transmit := self.core.poll_transmit()) is not None:
            assert transmit.destination == GATEWAY
            self.sent.append((self.now, transmit.data))
            answer = self.answer(transmit.data, self.now)
            if answer is not None:
                self.core.handle_datagram(answer, GATEWAY, now=self.now)
        while (event := self.core.poll_event()) is not None:
            self.events.append((self.now, event))

    def run_until(self, at: float) -> None:
        while (deadline := self.core.poll_deadline()) is not None and deadline.at <= at:
            self.now = max(self.now, deadline.at)
            self.core.handle_timeout(now=self.now)
            self.drain()
        self.now = at


def silent(_data: bytes, _now: float) -> None:
    return None


def pmp(data: bytes, now: float, *, lifetime: int = LEASE_S, result: int = 0) -> bytes | None:
    """Answer as a NAT-PMP gateway that knows no PCP."""
    epoch = int(now)
    if data[0] != 0:
        return struct.pack("!BBHI", 0, 0x80, 1, epoch)
    if data[1] == 0:
        return struct.pack("!BBHI4s", 0, 0x80, result, epoch, OUTER_BYTES)
    internal, _external, asked = struct.unpack("!HHI", data[4:12])
    return struct.pack("!BBHIHHI", 0, 0x81, result, epoch, internal, 5000, min(asked, lifetime))


def pcp(data: bytes, now: float, *, lifetime: int = LEASE_S, result: int = 0) -> bytes | None:
    """Answer as a PCP gateway."""
    if data[0] != 2:
        return None
    asked = int.from_bytes(data[4:8], "big")
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, result, min(asked, lifetime), int(now))
    tail = struct.pack("!HH", PORT, 5000) + V4_MAPPED + OUTER_BYTES
    return head + data[24:36] + data[36:40] + tail


MAPPED = {
    Protocol.PCP: Mapped(Protocol.PCP, Address(OUTER, 5000), LEASE_S),
    Protocol.NAT_PMP: Mapped(Protocol.NAT_PMP, Address(OUTER, 5000), LEASE_S),
}


@pytest.mark.parametrize(
    ("answer", "protocol"), [(pcp, Protocol.PCP), (pmp, Protocol.NAT_PMP)], ids=["pcp", "nat-pmp"]
)
def test_mapped_at_once_renewed_at_half_removed_at_the_end(
    answer: Answer, protocol: Protocol
) -> None:
    play = Play(answer)
    play.run_until(100.1)
    assert [event for _, event in play.events] == [MAPPED[protocol]]
    assert list(play.core.served) == [protocol]
    count = len(play.sent)
    play.run_until(100 + LEASE_S / 2 - 1)
    assert len(play.sent) == count
    play.run_until(100 + LEASE_S / 2 + 1)
    assert len(play.sent) > count
    play.run_until(100 + 3 * LEASE_S)
    assert [event for _, event in play.events] == [MAPPED[protocol]]  # never lost
    play.core.close(now=play.now)
    play.core.close(now=play.now)
    play.drain()
    last = play.sent[-1][1]
    lifetime = last[4:8] if protocol is Protocol.PCP else last[8:12]
    assert lifetime == bytes(4)
    assert play.core.poll_deadline() is None
    assert play.core.mapped is None


def test_a_silent_gateway_is_given_up_and_asked_again_later() -> None:
    play = Play(silent)
    play.run_until(100 + GIVE_UP_S + 1)
    ((at, event),) = play.events
    assert at == 100 + GIVE_UP_S
    assert event == Unserved("the router answers neither PCP nor NAT-PMP")
    assert len(play.sent) < 12
    assert {data[0] for _, data in play.sent} == {0, 2}
    count = len(play.sent)
    play.run_until(100 + GIVE_UP_S + AGAIN_S - 1)
    assert len(play.sent) == count
    play.answer = pcp
    play.run_until(100 + GIVE_UP_S + AGAIN_S + 1)
    assert play.events[-1][1] == MAPPED[Protocol.PCP]


def test_a_silent_gateway_is_given_up_sooner_where_there_is_another_way() -> None:
    play = Play(silent, gives_up_soon=True)
    play.run_until(100 + GIVE_UP_S)
    assert [at for at, _ in play.events] == [100 + GIVE_UP_SOON_S]


def test_a_gateway_that_has_answered_is_given_more_time() -> None:
    told: list[bytes] = []

    def slow(data: bytes, now: float) -> bytes | None:
        told.append(data)
        is_late = now > 100 + GIVE_UP_SOON_S
        return pmp(data, now) if data[0] == 0 and (len(data) == 2 or is_late) else None

    play = Play(slow, gives_up_soon=True)
    play.run_until(100 + GIVE_UP_S)
    assert [event for _, event in play.events] == [MAPPED[Protocol.NAT_PMP]]


@pytest.mark.parametrize(("answer", "result"), [(pcp, 2), (pmp, 3)])
def test_a_refusal_is_told_in_words(answer: Callable[..., bytes | None], result: int) -> None:
    play = Play(lambda data, now: answer(data, now, result=result))
    play.run_until(105)
    ((_, event),) = play.events
    assert isinstance(event, Unserved)
    assert "router" in event.reason


def test_one_protocol_alone() -> None:
    play = Play(silent, (Protocol.NAT_PMP,))
    play.run_until(130)
    assert {data[0] for _, data in play.sent} == {0}
    play = Play(pmp, (Protocol.PCP,))
    play.run_until(130)
    assert {data[0] for _, data in play.sent} == {2}
    assert isinstance(play.events[0][1], Unserved)


@pytest.mark.parametrize("answer", [pcp, pmp])
def test_a_gateway_that_lost_its_state_is_asked_at_once(answer: Answer) -> None:
    play = Play(answer)
    play.run_until(100 + LEASE_S / 2 - 1)
    play.answer = lambda data, now: answer(data, now - LEASE_S / 2)  # its clock began anew
    count = len(play.sent)
    play.run_until(100 + LEASE_S / 2 + 30)
    renewals = [data for _, data in play.sent[count:] if data[1] == 1]
    assert len(renewals) == 2


@pytest.mark.parametrize("answer", [pcp, pmp])
def test_a_mapping_that_is_not_renewed_ends(answer: Answer) -> None:
    play = Play(answer)
    play.run_until(101)
    play.answer = silent
    play.run_until(100 + LEASE_S + 1)
    assert isinstance(play.events[-1][1], Unserved)
    assert play.core.mapped is None
    assert len(play.sent) < 200


def test_strangers_and_garbage_are_counted() -> None:
    play = Play(silent)
    nonce = play.sent[0][1]
    foreign = pcp(nonce[:24] + bytes(12) + nonce[36:], 1.0)
    assert foreign is not None
    right = pcp(nonce, 1.0)
    assert right is not None
    play.core.handle_datagram(right, Address("192.168.1.9", 5351), now=101)
    play.core.handle_datagram(b"garbage", GATEWAY, now=101)
    play.core.handle_datagram(foreign, GATEWAY, now=101)
    assert play.core.drops == {
        PortMapDrop.SOURCE: 1,
        PortMapDrop.MALFORMED: 1,
        PortMapDrop.NOT_OURS: 1,
    }
    play.drain()
    assert play.events == []


def test_random_answers_do_no_harm() -> None:
    play = Play(silent)
    rng = random.Random(7)
    for _ in range(3000):
        data = bytearray(rng.choice((pcp, pmp))(play.sent[0][1], 5.0) or b"")
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        play.core.handle_datagram(bytes(data[: rng.randrange(70)]), GATEWAY, now=play.now)
        play.drain()
        play.run_until(play.now + rng.random() * 5)
    assert len(play.sent) < 6000
