"""PROBE: who is sent where, and what is refused."""

from __future__ import annotations

import pytest

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr
from ginnel.discv5.requests import Contact
from ginnel.mesh.probe import (
    FOR_PER_IP_BURST,
    PER_ADDRESS_S,
    PER_IP_BURST,
    PROBERS,
    ProbeDrop,
    ProbeForRequest,
    ProbeRequest,
    Reflector,
    decode_probe,
    decode_probe_answer,
    encode_probe,
    encode_probe_for,
)
from ginnel.mesh.rendezvous import Ping, RdvCommand, TalkRequest, Tokens
from support import rdv

SELF = NodeId(b"\x80" + bytes(31))
ASKER = rdv.record("198.51.100.7")
KNOWN = [rdv.record(f"203.0.113.{n}") for n in range(1, 5)]


def at(record: Enr, address: Address) -> Contact:
    return Contact(record.node_id, address, record.public_key)


def reflector(known: list[Enr] | None = None) -> Reflector:
    nodes = KNOWN if known is None else known
    return Reflector(SELF, lambda _target, count: nodes[:count], tokens=Tokens())


def drain(served: Reflector) -> list[RdvCommand]:
    commands = []
    while (command := served.poll_command()) is not None:
        commands.append(command)
    return commands


def probe(served: Reflector, port: int = 41000, now: float = 0.0) -> tuple[str, ...]:
    contact = at(ASKER, Address("198.51.100.7", port))
    return decode_probe_answer(served.serve(contact, encode_probe(ASKER), now=now))


def test_two_others_are_sent_to_where_the_request_came_from() -> None:
    served = reflector([ASKER, rdv.record("198.51.100.7", 9), *KNOWN, rdv.record("10.0.0.1")])
    names = probe(served)
    commands = drain(served)
    assert len(names) == len(commands) == PROBERS
    for command, ip in zip(commands, names, strict=True):
        assert isinstance(command, TalkRequest)
        assert command.contact.address.ip == ip
        request = decode_probe(command.payload)
        assert request == ProbeForRequest(ASKER, Address("198.51.100.7", 41000))


def test_who_is_sent_pings_that_address() -> None:
    served = reflector()
    request = ProbeForRequest(ASKER, Address("198.51.100.7", 41000))
    served.serve(rdv.contact("203.0.113.1"), encode_probe_for(request), now=0.0)
    (command,) = drain(served)
    assert isinstance(command, Ping)
    assert command.contact == at(ASKER, request.address)


def test_one_round_a_minute_for_an_address_and_few_for_an_ip() -> None:
    served = reflector()
    assert probe(served)
    assert probe(served, now=PER_ADDRESS_S / 2) == ()
    assert probe(served, now=PER_ADDRESS_S + 1)
    served = reflector()
    granted = [probe(served, port=2000 + n) for n in range(30)]
    assert sum(map(bool, granted)) == PER_IP_BURST
    assert served.drops[ProbeDrop.RATE] == 30 - PER_IP_BURST
    sender = rdv.contact("203.0.113.1")
    drain(served)
    for port in range(1, 60):
        request = ProbeForRequest(ASKER, Address("198.51.100.7", port))
        served.serve(sender, encode_probe_for(request), now=0.0)
    assert len(drain(served)) == FOR_PER_IP_BURST


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "224.0.0.1", "0.0.0.0", "169.254.1.1", "10.0.0.1", "192.168.1.1"]
)
def test_nobody_is_sent_into_other_networks(ip: str) -> None:
    served = reflector()
    request = ProbeForRequest(ASKER, Address(ip, 53))
    served.serve(rdv.contact("203.0.113.1"), encode_probe_for(request), now=0.0)
    assert drain(served) == []
    assert served.drops == {ProbeDrop.ADDRESS: 1}


def test_another_nodes_record_is_refused() -> None:
    served = reflector()
    contact = rdv.contact("198.51.100.7", 5)
    assert decode_probe_answer(served.serve(contact, encode_probe(ASKER), now=0.0)) == ()
    assert served.drops == {ProbeDrop.STRANGER: 1}


def test_without_others_nobody_is_sent() -> None:
    served = reflector([ASKER])
    assert probe(served) == ()
    assert served.drops == {ProbeDrop.NOBODY: 1}


@pytest.mark.parametrize(
    "payload",
    [
        rlp.encode([1, 4]),
        rlp.encode([1, 4, b"no record"]),
        rlp.encode([2, 4, ASKER.raw]),
        rlp.encode([1, 5, ASKER.raw]),
        rlp.encode([1, 5, ASKER.raw, b"abc", 7]),
        rlp.encode([1, 5, ASKER.raw, bytes(4), 70_000]),
        bytes(1200),
    ],
)
def test_malformed_requests_are_counted(payload: bytes) -> None:
    served = reflector()
    served.serve(rdv.contact("203.0.113.1"), payload, now=0.0)
    assert served.drops == {ProbeDrop.MALFORMED: 1}


def test_round_trip_and_hostile_answers() -> None:
    assert decode_probe(encode_probe(ASKER)) == ProbeRequest(ASKER)
    assert decode_probe_answer(b"") == ()
    assert decode_probe_answer(rlp.encode([1, 2])) == ()
    assert len(decode_probe_answer(rlp.encode([1, 0, [bytes(4)] * 50]))) == 8
    for answer in (b"\xff", rlp.encode([1]), rlp.encode([1, 0, [b"abc"]]), rlp.encode([1, 0, b""])):
        with pytest.raises(RemoteProtocolError):
            decode_probe_answer(answer)
