"""Sealed messages between two members, and an unknown one's introduction."""

from __future__ import annotations

import random

import pytest

from ginnel.base.types import MemberId, Secret
from ginnel.mesh import derive
from ginnel.mesh.envelope import EnvelopeDrop, Kind
from ginnel.mesh.membership import Membership
from ginnel.mesh.objects import Certificate
from ginnel.mesh.rendezvous import Presence, open_presence
from ginnel.mesh.roster import ObjectsPayload, encode_objects
from ginnel.mesh.signalling import MeshKeys, Peer, Signaller
from support.hpke import DeterministicSealer
from support.members import NOW, MemberKeys, NetworkFactory
from unit.peer.test_conn import make_conn

NET = NetworkFactory()
PI, LAPTOP = MemberKeys("raspberry-pi"), MemberKeys("laptop-alice")


def make(keys: MemberKeys, membership: Membership) -> Signaller:
    source = random.Random(keys.name).randbytes
    return Signaller(
        membership,
        MeshKeys(keys.identity, keys.wireguard, (keys.sealing,)),
        sealer=DeterministicSealer(source),
        random_bytes=source,
    )


@pytest.fixture
def both() -> tuple[Signaller, Signaller]:
    return make(PI, NET.membership(PI, LAPTOP)), make(LAPTOP, NET.membership(PI, LAPTOP))


def cert_of(keys: MemberKeys) -> Certificate:
    cert = NET.membership(PI, LAPTOP).certificate_of(keys.member_id)
    assert cert is not None
    return cert


def test_a_message_arrives_once(both: tuple[Signaller, Signaller]) -> None:
    pi, laptop = both
    sealed = pi.seal(Kind.OFFER, cert_of(LAPTOP), b"payload", unix_now=NOW)
    assert sealed is not None
    assert sealed.point == laptop.point_of(LAPTOP.member_id, derive.period_of(NOW))
    opened = laptop.open(sealed.envelope, source=b"s", now=0.0, unix_now=NOW)
    assert opened is not None
    assert (opened.message.payload, opened.message.sender) == (b"payload", PI.member_id)
    assert opened.body_hash == sealed.body_hash
    assert laptop.open(sealed.envelope, source=b"s", now=1.0, unix_now=NOW) is None
    assert laptop.opener.drops == {EnvelopeDrop.REPLAY: 1}


def test_counters_rise_for_each_recipient(both: tuple[Signaller, Signaller]) -> None:
    pi, laptop = both
    counters = []
    for _ in range(3):
        sealed = pi.seal(Kind.BYE, cert_of(LAPTOP), b"", unix_now=NOW)
        assert sealed is not None
        opened = laptop.open(sealed.envelope, source=b"s", now=0.0, unix_now=NOW)
        assert opened is not None
        counters.append(opened.message.counter)
    assert counters == [1, 2, 3]


def test_without_an_epoch_nothing_is_sealed() -> None:
    membership = Membership(NET.network_id)
    membership.add_objects([NET.network(), NET.admin_object(), NET.cert(PI)], unix_now=NOW)
    pi = make(PI, membership)
    assert pi.seal(Kind.OFFER, cert_of(LAPTOP), b"", unix_now=NOW) is None
    assert pi.own_points(NOW) == []
    assert pi.preshared_key(cert_of(LAPTOP)) is None


def test_both_derive_the_same_preshared_key(both: tuple[Signaller, Signaller]) -> None:
    pi, laptop = both
    key = pi.preshared_key(cert_of(LAPTOP))
    assert key is not None
    assert key == laptop.preshared_key(cert_of(PI))


def test_presences_are_bound_to_their_member(both: tuple[Signaller, Signaller]) -> None:
    pi, laptop = both
    [point, *_] = pi.own_points(NOW)
    plain = Presence(pi.member_id, point.period, NOW, Secret(b"d" * 16), (), bytes(32))
    opened = open_presence(point, pi.seal_presence(point, plain))
    assert laptop.is_presence_of(cert_of(PI), opened)
    assert not laptop.is_presence_of(cert_of(LAPTOP), opened)
    other = Presence(
        MemberId(LAPTOP.member_id), point.period, NOW, Secret(b"d" * 16), (), bytes(32)
    )
    forged = open_presence(point, pi.seal_presence(point, other))
    assert not laptop.is_presence_of(cert_of(LAPTOP), forged)


def test_an_unknown_member_introduces_itself() -> None:
    pi = make(PI, NET.membership(PI, LAPTOP))
    membership = NET.membership()
    membership.add_object(NET.cert(LAPTOP, 2), unix_now=NOW)
    laptop = make(LAPTOP, membership)
    plain = pi.seal(Kind.OFFER, cert_of(LAPTOP), b"", unix_now=NOW)
    assert plain is not None
    assert laptop.open(plain.envelope, source=b"s", now=0.0, unix_now=NOW) is None
    assert laptop.opener.drops == {EnvelopeDrop.UNKNOWN_SENDER: 1}
    payload = encode_objects(ObjectsPayload(bytes(32), (), (NET.cert(PI, 1),)))
    hello = pi.seal(Kind.OBJECTS, cert_of(LAPTOP), payload, unix_now=NOW)
    assert hello is not None
    opened = laptop.open(hello.envelope, source=b"s", now=0.0, unix_now=NOW)
    assert opened is not None
    assert opened.message.sender == PI.member_id
    assert laptop.introduced == [NET.cert(PI, 1)]


def test_a_foreign_certificate_introduces_nobody() -> None:
    pi = make(PI, NET.membership(PI, LAPTOP))
    membership = NET.membership()
    membership.add_object(NET.cert(LAPTOP, 2), unix_now=NOW)
    laptop = make(LAPTOP, membership)
    foreign = NetworkFactory("other-network").cert(PI, 1)
    for objects in ((foreign,), (b"garbage",), ()):
        payload = encode_objects(ObjectsPayload(bytes(32), (), objects))
        hello = pi.seal(Kind.OBJECTS, cert_of(LAPTOP), payload, unix_now=NOW)
        assert hello is not None
        assert laptop.open(hello.envelope, source=b"s", now=0.0, unix_now=NOW) is None
    garbled = pi.seal(Kind.OBJECTS, cert_of(LAPTOP), b"no objects", unix_now=NOW)
    assert garbled is not None
    assert laptop.open(garbled.envelope, source=b"s", now=0.0, unix_now=NOW) is None
    assert laptop.introduced == []


def test_a_peer_that_registers_anew_while_it_is_not_reached_is_back() -> None:
    peer = Peer(cert_of(LAPTOP), "laptop-alice", make_conn(), b"e" * 8)
    assert not peer.is_back(1000)  # found for the first time
    peer.is_open = True
    assert not peer.is_back(1000)  # the same presence again
    assert not peer.is_back(900)
    assert peer.is_back(1300)
    assert not peer.is_back(1300)
