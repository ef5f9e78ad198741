"""A table of connections says what asking all of them says."""

import random

from ginnel.base.core import earliest
from ginnel.base.types import Address
from ginnel.ice import stun
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.stun import Attribute, MessageClass
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import ConnConfig, SendOffer
from ginnel.peer.signal import OfferAnswer
from ginnel.peer.table import SLACK, ConnTable
from ginnel.peer.turns import Turns

LOCAL = make_host(Address("192.168.1.2", 4000))


def make_conn(number: int, turns: Turns | None = None) -> ConnCore:
    rng = random.Random(number)
    ips = (f"100.64.7.{number}/32",)
    config = ConnConfig(bytes([number]) * 32, b"\xff" * 32, ips, turns=turns or Turns())
    conn = ConnCore(config, random_bytes=rng.randbytes, rng=rng)
    conn.set_local_candidates([LOCAL], now=0.0)
    return conn


def address_of(number: int) -> Address:
    return Address(f"198.51.100.{number}", 5000)


def offer_of(number: int) -> OfferAnswer:
    remote = make_remote(CandidateKind.HOST, address_of(number), 9, "f")
    return OfferAnswer(bytes([number]) * 16, f"them{number}", "p" * 24, (remote,))


class Asked:
    """Some connections in a table, and what they sent."""

    def __init__(self, count: int) -> None:
        self.conns = {number: make_conn(number) for number in range(1, count + 1)}
        self.table: ConnTable[int] = ConnTable()
        self.sent: list[tuple[int, bytes]] = []
        self.ufrags: dict[str, int] = {}
        for number, conn in self.conns.items():
            self.table.put(number, conn)

    def drain(self, number: int) -> None:
        conn = self.conns[number]
        while (transmit := conn.poll_transmit()) is not None:
            self.table.note_sent(number, transmit)
            self.sent.append((number, transmit.data))
        while (event := conn.poll_event()) is not None:
            if isinstance(event, SendOffer):
                self.ufrags[event.offer.ufrag] = number
        self.table.touch(number)

    def check(self) -> None:
        asked = earliest(*(conn.poll_deadline() for conn in self.conns.values()))
        found = self.table.poll_deadline()
        assert (found and found.at) == (asked and asked.at)


def test_its_deadline_is_the_earliest_whatever_is_done() -> None:
    rng = random.Random(7)
    asked, now = Asked(12), 0.0
    served = 0
    for _ in range(600):
        number = rng.choice(sorted(asked.conns))
        conn = asked.conns[number]
        action = rng.randrange(6)
        if action == 0:
            conn.open(now)
        elif action == 1:
            conn.on_remote_offer(offer_of(number), now=now)
        elif action == 2 and rng.random() < 0.1:
            conn.close(now)
        elif action == 3 and rng.random() < 0.1:
            asked.drain(number)
            asked.conns[number] = make_conn(number)
            asked.table.put(number, asked.conns[number])
        else:
            now += rng.random()
            due = asked.table.take_due(now)
            assert len(due) == len(set(due))
            for key in due:
                asked.conns[key].handle_timeout(now=now)
                asked.drain(key)
            served += len(due)
        asked.drain(number)
        asked.check()
    assert served > 50
    for number in list(asked.conns):
        asked.table.remove(number)
        del asked.conns[number]
        asked.check()


def test_a_message_finds_its_connection_and_no_other() -> None:
    asked = Asked(5)
    for number, conn in asked.conns.items():
        conn.open(0.0)
        asked.drain(number)
    for ufrag, number in asked.ufrags.items():
        attributes = [(Attribute.USERNAME, f"{ufrag}:them".encode())]
        data = stun.encode_message(MessageClass.REQUEST, b"t" * 12, attributes, key=b"k")
        assert asked.table.find(stun.decode_message(data), address_of(number)) == number
    for number, conn in asked.conns.items():
        conn.on_remote_offer(offer_of(number), now=0.1)
        asked.drain(number)
    assert {number for number, _ in asked.sent} == set(asked.conns)
    for number, data in asked.sent:
        answer = stun.encode_message(MessageClass.SUCCESS, data[8:20], [], key=b"k")
        assert asked.table.find(stun.decode_message(answer), address_of(number)) == number
    strange = stun.encode_message(MessageClass.SUCCESS, b"s" * 12, [], key=b"k")
    assert asked.table.find(stun.decode_message(strange), address_of(1)) is None


def test_what_is_removed_or_replaced_is_found_no_more() -> None:
    asked = Asked(2)
    for number, conn in asked.conns.items():
        conn.open(0.0)
        asked.drain(number)
    asked.table.remove(1)
    asked.conns[2].close(0.5)
    asked.drain(2)
    for ufrag in asked.ufrags:
        attributes = [(Attribute.USERNAME, f"{ufrag}:them".encode())]
        data = stun.encode_message(MessageClass.REQUEST, b"t" * 12, attributes, key=b"k")
        assert asked.table.find(stun.decode_message(data), address_of(1)) is None
    asked.table.touch(1)  # one that is not known any more
    assert asked.table.poll_deadline() is None


def test_outdated_deadlines_take_no_room() -> None:
    asked = Asked(3)
    asked.conns[1].open(0.0)
    asked.drain(1)
    for step in range(1, 2000):
        asked.conns[1].on_remote_offer(offer_of(step % 200 + 1), now=step / 100)
        asked.drain(1)
    assert len(asked.table.heap) <= 2 * len(asked.conns) + SLACK


def test_whose_turn_has_come_is_due() -> None:
    turns = Turns(1)
    table: ConnTable[int] = ConnTable(turns)
    conns = {number: make_conn(number, turns) for number in range(1, 4)}
    for number, conn in conns.items():
        table.put(number, conn)
        conn.open(0.0)
        table.touch(number)
    assert table.take_due(0.0) == []
    conns[1].close(0.5)
    table.touch(1)
    deadline = table.poll_deadline()
    assert deadline is not None
    assert deadline.at <= 0.5
    assert table.take_due(0.5) == [2]
    conns[2].handle_timeout(now=0.5)
    table.touch(2)
    assert table.take_due(0.5) == []
    table.remove(3)
    conns[2].close(0.6)  # the next one is gone: nobody is due
    table.touch(2)
    assert table.take_due(0.6) == []
