"""Permissions and channels of one allocation (RFC 8656 sections 9 and 12)."""

from ginnel.base.types import Address
from ginnel.ice.bindings import CHANNEL_LIFE, MAX_PERMISSIONS, PERMISSION_LIFE, Bindings

ANNA, BEN = Address("203.0.113.1", 50_000), Address("203.0.113.1", 50_001)


def test_permissions_end_and_are_bounded() -> None:
    bindings = Bindings()
    assert bindings.permit([ANNA], 10.0)
    assert bindings.permitted_until(ANNA) == 10.0 + PERMISSION_LIFE
    assert bindings.permitted_until(BEN) == 0.0
    peers = [Address("203.0.113.1", number) for number in range(1, MAX_PERMISSIONS + 1)]
    assert not bindings.permit(peers, 20.0)
    assert bindings.permitted_until(peers[0]) == 0.0
    assert bindings.permit(peers, 10.0 + PERMISSION_LIFE)


def test_number_and_peer_belong_together_until_the_end() -> None:
    bindings = Bindings()
    assert not bindings.may_bind(0x3FFF, ANNA, 0.0)
    assert not bindings.may_bind(0x5000, ANNA, 0.0)
    assert bindings.may_bind(0x4000, ANNA, 1.0)
    bindings.bind(0x4000, ANNA, 1.0)
    assert bindings.may_bind(0x4000, ANNA, 2.0)
    assert not bindings.may_bind(0x4000, BEN, 2.0)
    assert not bindings.may_bind(0x4001, ANNA, 2.0)
    assert bindings.peer_of(0x4000, 2.0) == ANNA
    assert bindings.channel_to(ANNA) == (0x4000, 1.0 + CHANNEL_LIFE)
    assert list(bindings.peers()) == [ANNA]
    over = 1.0 + CHANNEL_LIFE
    assert bindings.knows(0x4000)
    assert bindings.peer_of(0x4000, over) is None
    assert bindings.may_bind(0x4000, BEN, over)
    assert bindings.channel_to(ANNA) is None


def test_a_way_needs_both_channels_and_lasts_as_long_as_the_shortest() -> None:
    ours, theirs = Bindings(), Bindings()
    assert ours.permit([BEN], 0.0)
    ours.bind(0x4000, BEN, 0.0)
    assert ours.way_to(BEN, theirs, ANNA) is None
    theirs.bind(0x4001, ANNA, 100.0)
    assert ours.way_to(BEN, theirs, ANNA) == (0x4000, 0x4001, 0.0)
    assert theirs.permit([ANNA], 100.0)
    assert ours.way_to(BEN, theirs, ANNA) == (0x4000, 0x4001, 100.0 + PERMISSION_LIFE)
    assert theirs.permit([ANNA], 400.0)
    assert ours.way_to(BEN, theirs, ANNA) == (0x4000, 0x4001, CHANNEL_LIFE)
