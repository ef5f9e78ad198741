"""One member's mesh and what strangers, liars and late comers send it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ginnel.base import rlp
from ginnel.base.dataplane import HandshakeCompleted, InnerReceived
from ginnel.base.types import NodeId, Secret
from ginnel.discv5.requests import Contact
from ginnel.mesh import derive
from ginnel.mesh.control_port import Kind as ControlKind
from ginnel.mesh.control_port import build_packet, encode_message
from ginnel.mesh.courier import CourierDrop
from ginnel.mesh.envelope import EnvelopeDrop, Kind
from ginnel.mesh.events import (
    EnvelopeReceived,
    MeshEvent,
    Notice,
    PeerChanged,
    PingResult,
    RosterChanged,
)
from ginnel.mesh.mesh import Mesh, MeshConfig, MeshDrop, MeshKeys
from ginnel.mesh.rendezvous import (
    Answer,
    Lookup,
    PushRequest,
    RdvCommand,
    Status,
    TalkRequest,
    TalkResponse,
    decode_answer,
    encode_answer,
    encode_request,
)
from ginnel.mesh.roster import ObjectsPayload, encode_grant, encode_objects
from ginnel.mesh.signalling import Signaller
from ginnel.peer.signal import OfferAnswer, encode_offer
from support import rdv
from support.hpke import DeterministicSealer
from support.members import NOW, MemberKeys, NetworkFactory

NET = NetworkFactory()
PI, LAPTOP, PHONE = (MemberKeys(n) for n in ("raspberry-pi", "laptop-alice", "phone-of-bob"))
STORER = rdv.contact("203.0.113.1")
STRANGER = rdv.contact("192.0.2.66")


class Rig:
    """The pi's mesh, registered at one storer; and the laptop's hand to write messages with."""

    def __init__(self) -> None:
        source = random.Random(1).randbytes
        self.sealer = DeterministicSealer(source)
        keys = MeshKeys(PI.identity, PI.wireguard, (PI.sealing,))
        self.mesh = Mesh(
            MeshConfig(NodeId(bytes(32))),
            keys,
            NET.membership(PI, LAPTOP),
            sealer=self.sealer,
            random_bytes=source,
            rng=random.Random(1),
        )
        self.laptop = Signaller(
            NET.membership(PI, LAPTOP),
            MeshKeys(LAPTOP.identity, LAPTOP.wireguard, (LAPTOP.sealing,)),
            sealer=self.sealer,
            random_bytes=source,
        )
        self.commands: list[RdvCommand] = []
        self.mesh.start(now=0.0, unix_now=NOW)
        self.mesh.handle_timeout(now=0.0, unix_now=NOW)
        self.carry()

    def carry(self) -> None:
        """Answer lookups by the storer, registrations by yes, all else by unknown."""
        while (command := self.mesh.poll_command()) is not None:
            self.commands.append(command)
            if isinstance(command, Lookup):
                nodes = [rdv.record("203.0.113.1")]
                self.mesh.on_lookup_done(command.token, nodes, now=0.0, unix_now=NOW)
            elif isinstance(command, TalkRequest):
                is_register = command.payload[2:4] == b"\x01\x01" or len(command.payload) > 200
                status = Status.DONE if is_register else Status.UNKNOWN
                payload = encode_answer(Answer(status))
                self.mesh.on_talk_answered(command.token, payload, now=0.0, unix_now=NOW)

    def events(self) -> list[MeshEvent]:
        return list(iter(self.mesh.poll_event, None))

    def push(self, envelope: bytes, contact: Contact = STORER, location: bytes = b"") -> Status:
        own = self.mesh.signaller.own_points(NOW)[0].location
        request = PushRequest(NodeId(location or own), envelope)
        return self.push_raw(encode_request(request), contact)

    def push_raw(self, payload: bytes, contact: Contact = STORER) -> Status:
        self.mesh.on_push(5, contact, payload, now=0.0, unix_now=NOW)
        found: list[RdvCommand] = list(iter(self.mesh.poll_command, None))
        self.commands += found
        [response] = [c for c in found if isinstance(c, TalkResponse)]
        return decode_answer(response.payload).status

    def sealed(self, kind: Kind, payload: bytes, *, unix_now: float = NOW) -> bytes:
        cert = self.mesh.membership.certificate_of(PI.member_id)
        assert cert is not None
        sealed = self.laptop.seal(kind, cert, payload, unix_now=unix_now)
        assert sealed is not None
        return sealed.envelope


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_it_registers_itself_and_searches_the_others(rig: Rig) -> None:
    [changed] = [e for e in rig.events() if isinstance(e, PeerChanged)][:1]
    assert changed.full_name == "laptop-alice.meadowbrook.internal"
    assert changed.stage.startswith("searching")
    targets = [c.target for c in rig.commands if isinstance(c, Lookup)]
    assert {p.location for p in rig.mesh.signaller.own_points(NOW)} <= set(targets)
    assert rig.laptop.own_points(NOW)[0].location in targets


def test_pushes_of_strangers_are_not_taken(rig: Rig) -> None:
    envelope = rig.sealed(Kind.BYE, b"")
    assert rig.push(envelope, STRANGER) is Status.UNKNOWN
    assert rig.push(envelope, STORER, bytes(32)) is Status.UNKNOWN
    assert rig.push_raw(b"garbage") is Status.REFUSED
    assert rig.push_raw(rlp.encode([1, 2, bytes(32)])) is Status.REFUSED
    assert rig.mesh.courier.drops == {CourierDrop.NOT_OURS: 2, CourierDrop.MALFORMED: 2}
    assert rig.mesh.signaller.opener.drops == {}


def test_a_replayed_a_changed_and_a_late_envelope(rig: Rig) -> None:
    envelope = rig.sealed(Kind.FETCH, bytes(8))
    assert rig.push(envelope) is Status.DONE
    assert rig.push(envelope) is Status.DONE  # as it comes by another storer: not opened again
    assert rig.mesh.courier.drops == {CourierDrop.DUPLICATE: 1}
    changed = envelope[:-1] + bytes([envelope[-1] ^ 1])
    rig.push(changed)
    rig.push(bytes(600))
    rig.push(rig.sealed(Kind.FETCH, bytes(8), unix_now=NOW - 601))
    drops = rig.mesh.signaller.opener.drops
    assert drops[EnvelopeDrop.MAC] == 1
    assert drops[EnvelopeDrop.FORM] == 1
    assert drops[EnvelopeDrop.CLOCK] == 1


@pytest.mark.parametrize(
    "kind", [Kind.OFFER, Kind.CANDIDATES, Kind.GRANT, Kind.FETCH, Kind.OBJECTS]
)
@pytest.mark.parametrize("payload", [b"", b"\xff\xff", b"\xc0", bytes(500)])
def test_nonsense_inside_valid_encryption_is_counted(rig: Rig, kind: Kind, payload: bytes) -> None:
    rig.push(rig.sealed(kind, payload))
    assert rig.mesh.drops == {MeshDrop.PAYLOAD: 1}


def test_a_relay_message_that_is_malformed_and_an_unasked_answer_are_counted(rig: Rig) -> None:
    rig.push(rig.sealed(Kind.RELAY, b""))
    assert rig.mesh.drops == {MeshDrop.PAYLOAD: 1}
    rig.push(rig.sealed(Kind.ANSWER, b""))
    assert rig.mesh.signaller.opener.drops == {EnvelopeDrop.NOT_ASKED: 1}


def test_an_offer_opens_the_connection(rig: Rig) -> None:
    offer = OfferAnswer(b"s" * 16, "ufrag", "p" * 24)
    rig.push(rig.sealed(Kind.OFFER, encode_offer(offer)))
    assert rig.mesh.drops == {}
    assert rig.mesh.peers()[0].stage != "searching"


def test_new_certificates_come_with_objects_and_are_stored(rig: Rig) -> None:
    rig.events()
    raw = NET.cert(PHONE, 3)
    rig.push(rig.sealed(Kind.OBJECTS, encode_objects(ObjectsPayload(bytes(32), (), (raw,)))))
    events = rig.events()
    assert RosterChanged((raw,)) in events
    assert len(rig.mesh.peers()) == 2
    forged = NetworkFactory("other-network").cert(MemberKeys("intruder-here"), 4)
    rig.push(rig.sealed(Kind.OBJECTS, encode_objects(ObjectsPayload(bytes(32), (), (forged,)))))
    assert len(rig.mesh.peers()) == 2


def test_a_list_is_answered_by_fetches_of_what_is_missing(rig: Rig) -> None:
    missing = derive.sha256(NET.cert(PHONE, 3))[:8]
    rig.push(rig.sealed(Kind.OBJECTS, encode_objects(ObjectsPayload(bytes(32), (missing,)))))
    rig.mesh.handle_timeout(now=0.1, unix_now=NOW)
    assert rig.mesh.drops == {}
    assert rig.laptop.own_points(NOW)[0].location in [
        c.target for c in rig.commands if isinstance(c, Lookup)
    ]


def test_a_grant_brings_a_new_epoch(rig: Rig) -> None:
    before = rig.mesh.signaller.newest_epoch()
    secret = Secret(b"n" * 32)
    raw = NET.epoch(secret, number=2)
    rig.push(rig.sealed(Kind.GRANT, encode_grant(raw, secret)))
    after = rig.mesh.signaller.newest_epoch()
    assert before is not None
    assert after is not None
    assert after.epoch.number == 2
    assert RosterChanged((raw,)) in rig.events()


def test_a_grant_of_a_known_epoch_is_no_news(rig: Rig) -> None:
    rig.events()
    rig.push(rig.sealed(Kind.GRANT, encode_grant(NET.epoch(), NET.epoch_secret)))
    assert not [event for event in rig.events() if isinstance(event, RosterChanged)]


def test_a_grant_with_a_wrong_secret_changes_nothing(rig: Rig) -> None:
    raw = NET.epoch(Secret(b"n" * 32), number=2)
    rig.push(rig.sealed(Kind.GRANT, encode_grant(raw, Secret(b"w" * 32))))
    newest = rig.mesh.signaller.newest_epoch()
    assert newest is not None
    assert newest.epoch.number == 1


def test_invites_points_pass_whole_envelopes(rig: Rig) -> None:
    point = derive.invite_point(NET.network_id, Secret(b"i" * 16), derive.period_of(NOW))
    rig.mesh.add_points([point], now=0.0, unix_now=NOW)
    rig.mesh.handle_timeout(now=0.0, unix_now=NOW)
    rig.carry()
    assert rig.push(b"any bytes at all", location=point.location) is Status.DONE
    assert EnvelopeReceived(point.tag, b"any bytes at all") in rig.events()


def stun_like(payload: bytes) -> bytes:
    return b"\0\1" + len(payload).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + bytes(12) + payload


@pytest.mark.parametrize("make", [stun_like, lambda data: data])
def test_foreign_stun_and_unknown_peers_are_counted(
    rig: Rig, make: Callable[[bytes], bytes]
) -> None:
    taken = rig.mesh.handle_datagram(
        make(b""), rdv.contact("192.0.2.1").address, now=0.0, unix_now=NOW
    )
    assert not taken
    rig.mesh.on_engine_event(HandshakeCompleted(bytes(32), None), now=0.0, unix_now=NOW)
    rig.mesh.on_engine_event(InnerReceived(bytes(32), b"x"), now=0.0, unix_now=NOW)
    assert rig.mesh.drops == {MeshDrop.STUN: 1, MeshDrop.NO_PEER: 2}


def test_an_envelope_over_the_control_port_passes_the_same_checks(rig: Rig) -> None:
    cert = rig.mesh.membership.certificate_of(LAPTOP.member_id)
    assert cert is not None
    envelope = rig.sealed(Kind.RELAY, b"")
    [message] = encode_message(ControlKind.ENVELOPE, bytes(8), envelope)
    packet = build_packet("100.80.0.2", "100.80.0.1", message)
    for _ in range(2):
        rig.mesh.on_engine_event(InnerReceived(cert.wireguard, packet), now=0.0, unix_now=NOW)
    assert rig.mesh.drops == {MeshDrop.PAYLOAD: 1}
    assert rig.mesh.signaller.opener.drops == {EnvelopeDrop.REPLAY: 1}


def test_a_ping_to_who_is_not_connected_ends_at_once(rig: Rig) -> None:
    token = rig.mesh.ping(LAPTOP.member_id, now=0.0)
    assert PingResult(token, LAPTOP.member_id, None) in rig.events()


def test_a_clock_that_is_ahead_for_a_moment_unseats_nobody(rig: Rig) -> None:
    rig.events()
    rig.mesh.handle_timeout(now=30.0, unix_now=NOW + 400 * 86_400)
    assert rig.mesh.peers() == []
    rig.mesh.handle_timeout(now=60.0, unix_now=NOW + 60)
    assert [peer.name for peer in rig.mesh.peers()] == [LAPTOP.name]
    told = [e.text for e in rig.events() if isinstance(e, Notice)]
    assert told == [
        "no certificate in force (expired): set the clock if it is wrong, else join again with a "
        "new invite",
        "",
    ]
