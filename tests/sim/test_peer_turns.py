"""A machine among 200: how many negotiations are under way at once, and how long all takes.

RTT 100 ms, signalling 150 ms one way; see `support.star_world`.
"""

import pytest

from ginnel.peer.events import Disconnected
from ginnel.peer.status import ConnStatus
from ginnel.peer.turns import MAX_CONNECTING, PER_PLACE, Place
from support.star_world import Star

MEMBERS = 200
OTHERS = MEMBERS - 1


def tell(star: Star, name: str) -> None:
    times = star.times()
    print(
        f"{name}: {len(times)} connected; first after {times[0]:.2f} s, median "
        f"{times[len(times) // 2]:.2f} s, last {times[-1]:.2f} s; most at once: {star.highest}"
    )


def settle(star: Star) -> None:
    """All are connected: nobody holds a place any more or waits for one."""
    star.world.run_for(5.0)
    assert star.turns.waiting == 0
    assert [star.turns.count(place) for place in Place] == [0, 0, 0]


def test_who_starts_among_200_negotiates_with_16_at_once_and_reaches_all_soon() -> None:
    star = Star(1, OTHERS)
    star.open_hub()
    assert star.run(60.0)
    tell(star, "start")
    assert star.highest["offer"] == MAX_CONNECTING
    assert star.highest["negotiating"] <= MAX_CONNECTING
    assert star.highest["answer"] == 0
    assert len(star.connected_at) == OTHERS
    assert star.times()[-1] < 10.0
    settle(star)


def test_an_offer_of_200_at_once_is_answered_under_a_limit_of_its_own() -> None:
    star = Star(2, OTHERS)
    star.open_spokes()
    assert star.run(60.0)
    tell(star, "all offer")
    assert star.highest["offer"] == 0
    assert star.highest["answer"] == PER_PLACE * MAX_CONNECTING
    assert star.highest["negotiating"] <= PER_PLACE * MAX_CONNECTING + star.highest["slow"]
    assert star.times()[-1] < 10.0
    settle(star)


def test_the_silent_and_the_failing_do_not_keep_out_the_others() -> None:
    star = Star(3, OTHERS, silent=OTHERS // 3, failing=OTHERS // 3)
    star.open_hub()
    assert star.run(120.0)
    tell(star, "two thirds are of no use")
    assert len(star.connected_at) == len(star.good)
    assert star.highest["offer"] <= MAX_CONNECTING
    assert star.highest["slow"] <= PER_PLACE * MAX_CONNECTING
    assert star.times()[-1] < 40.0


def test_a_member_that_comes_while_many_try_again_is_connected_at_once() -> None:
    """After a minute of back-off everybody who is left is silent or fails; then one comes."""
    star = Star(4, 100, silent=50, failing=40)
    star.open_hub()
    assert star.run(120.0)
    star.world.run_for(60.0)
    late = star.silent.pop()
    star.good.append(late)
    came = star.world.now
    star.spokes[late].conn.open(came)
    star.attachments[late].wake()
    assert star.run(20.0)
    assert star.connected_at[late] - came < 1.5


@pytest.mark.parametrize("count", [2, MAX_CONNECTING])
def test_in_a_small_network_nobody_waits(count: int) -> None:
    times = []
    for places in (MAX_CONNECTING, 1000):
        star = Star(5, count, places=places)
        star.open_hub()
        assert star.run(20.0)
        assert star.highest["waiting"] == 0
        times.append(star.times())
    assert times[0] == times[1]


def test_all_paths_are_lost_at_once_and_come_back_under_the_limit() -> None:
    """The hub's NAT has another address: 100 restarts take turns, and none is a new connection."""
    star = Star(6, 100)
    star.open_hub()
    assert star.run(60.0)
    star.world.run_for(5.0)
    star.highest.clear()
    star.move_hub("203.0.113.202")
    moved = star.world.now
    conns = [peer.conn for peer in star.spokes.values()]

    def is_back() -> bool:
        star.watch()
        remotes = [conn.state.remote_address for conn in conns]
        return all(remote is not None and remote.ip == "203.0.113.202" for remote in remotes)

    assert star.world.run(until=is_back, timeout=30.0)
    print(f"100 moved within {star.world.now - moved:.2f} s; most at once: {star.highest}")
    assert star.world.now - moved < 6.0
    assert star.highest["offer"] <= MAX_CONNECTING
    assert all(conn.state.status is ConnStatus.CONNECTED for conn in conns)
    assert not any(isinstance(event, Disconnected) for event in star.told)
    settle(star)
