"""The search for the largest inner packet against paths of any size, with loss and changes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ginnel.base.dataplane import SetPathMtu
from ginnel.mesh.path_mtu import CONFIRM_S, FLOOR, RELAYED, RETRY_S, STEP, PathMtus
from ginnel.mesh.rendezvous import Tokens

KEY = b"k" * 32
IPS = ("100.64.0.2",)
TUN = 1420
RTT_S = 0.05


class Way:
    """A path under test: answers probes that fit, on virtual time."""

    def __init__(self, mtus: PathMtus, size: int, loss: float = 0.0, seed: int = 1) -> None:
        self.mtus = mtus
        self.size = size
        self.loss = loss
        self.now = 0.0
        self.sent: list[int] = []
        self.told: list[int | None] = []
        self._rng = random.Random(seed)
        self._answers: list[tuple[float, int]] = []

    def run(self, until: float) -> None:
        while True:
            self._drain()
            deadline = self.mtus.poll_deadline()
            at = min(
                [a for a, _ in self._answers] + ([deadline.at] if deadline else []),
                default=until + 1,
            )
            if at > until:
                self.now = until
                return
            self.now = max(self.now, at)
            due = [item for item in self._answers if item[0] <= self.now]
            self._answers = [item for item in self._answers if item[0] > self.now]
            for _, token in due:
                assert self.mtus.on_answer(token, RTT_S, now=self.now)
            self.mtus.handle_timeout(now=self.now)

    def run_while(self, is_true: Callable[[], bool], limit: float) -> float:
        start = self.now
        while is_true() and self.now < start + limit:
            self.run(self.now + 0.05)
        return self.now - start

    def _drain(self) -> None:
        while (probe := self.mtus.poll_probe()) is not None:
            assert (probe.peer, probe.ips) == (KEY, IPS)
            self.sent.append(probe.size)
            if probe.size <= self.size and self._rng.random() >= self.loss:
                self._answers.append((self.now + RTT_S, probe.token))
        while (command := self.mtus.poll_command()) is not None:
            assert isinstance(command, SetPathMtu)
            self.told.append(command.mtu)


def make(size: int, *, is_relayed: bool = False, loss: float = 0.0, seed: int = 1) -> Way:
    mtus = PathMtus(TUN, tokens=Tokens())
    mtus.set_path(KEY, IPS, "home", is_relayed=is_relayed, now=0.0)
    return Way(mtus, size, loss, seed)


def test_a_wide_path_is_known_after_one_round_trip() -> None:
    way = make(1500)
    way.run(RTT_S)
    assert way.told == [None, TUN]
    assert way.sent == [FLOOR, 1280, TUN]
    assert way.mtus.mtu_of(KEY) == TUN


@pytest.mark.parametrize("size", [*range(FLOOR, TUN, 37), 1240, 1279, 1280, 1281, 1419])
def test_any_size_is_found_nearly_in_some_seconds(size: int) -> None:
    way = make(size)
    took = way.run_while(lambda: way.mtus.mtu_of(KEY) is None, 30.0)
    found = way.mtus.mtu_of(KEY)
    assert found is not None
    assert size - STEP < found <= size
    assert took < 4.0
    assert way.told == [None, found]
    assert len(way.sent) < 100


def test_the_search_is_right_with_loss_in_nearly_all_cases() -> None:
    wrong = 0
    for seed in range(60):
        way = make(1340, loss=0.1, seed=seed)
        way.run_while(lambda way=way: way.mtus.mtu_of(KEY) is None, 60.0)  # type: ignore[misc]
        found = way.mtus.mtu_of(KEY)
        assert found is not None
        assert found <= 1340
        wrong += found <= 1340 - 2 * STEP
    assert wrong <= 3


def test_a_relayed_path_starts_lower_and_is_probed_too() -> None:
    way = make(1500, is_relayed=True)
    way.run(RTT_S)
    assert way.told == [RELAYED]
    assert way.mtus.mtu_of(KEY) == RELAYED
    narrow = make(1300, is_relayed=True)
    narrow.run(20.0)
    assert narrow.told[0] == RELAYED
    assert 1300 - STEP < (narrow.told[1] or 0) <= 1300


def test_a_peer_that_answers_nothing_is_asked_again_rarely() -> None:
    way = make(0)
    way.run(RETRY_S - 1)
    asked = len(way.sent)
    assert asked == 9  # three sizes, three tries
    assert way.told == [None]
    way.run(RETRY_S + 3)
    assert len(way.sent) == 2 * asked
    way.run(3600.0)
    assert len(way.sent) < 12 * asked
    way.size = 1400
    way.run(3600.0 + 700.0)
    assert way.mtus.mtu_of(KEY) == 1400


def test_what_was_found_is_confirmed_and_follows_the_path() -> None:
    way = make(1400)
    way.run(100.0)
    assert way.mtus.mtu_of(KEY) == 1400
    sent = len(way.sent)
    way.run(CONFIRM_S + 50.0)
    assert way.mtus.mtu_of(KEY) == 1400
    assert 2 <= len(way.sent) - sent <= 4
    way.size = 1300  # it became narrower: until that is found anything is sent
    way.run(2 * CONFIRM_S + 60.0)
    assert 1300 - STEP < (way.mtus.mtu_of(KEY) or 0) <= 1300
    way.size = 1500
    way.run(3 * CONFIRM_S + 70.0)
    assert way.mtus.mtu_of(KEY) == TUN
    assert way.told[1:3] == [1400, None]
    assert way.told[-1] == TUN


def test_another_path_is_searched_anew_and_old_answers_count_no_more() -> None:
    mtus = PathMtus(TUN, tokens=Tokens())
    mtus.set_path(KEY, IPS, "home", now=0.0)
    tokens = []
    while (probe := mtus.poll_probe()) is not None:
        tokens.append(probe.token)
    mtus.set_path(KEY, IPS, "home", now=0.1)  # the same
    assert mtus.poll_probe() is None
    mtus.set_path(KEY, IPS, "train", now=0.2)
    for token in tokens:
        assert mtus.on_answer(token, RTT_S, now=0.3)
    assert mtus.mtu_of(KEY) is None
    way = Way(mtus, 1350)
    way.now = 0.3
    way.run(20.0)
    assert 1350 - STEP < (mtus.mtu_of(KEY) or 0) <= 1350


def test_a_peer_without_path_is_left_alone() -> None:
    mtus = PathMtus(TUN, tokens=Tokens())
    mtus.set_path(KEY, IPS, None, now=0.0)
    assert mtus.poll_deadline() is None
    mtus.set_path(KEY, IPS, "home", now=0.0)
    mtus.set_path(KEY, IPS, None, now=1.0)
    assert mtus.poll_deadline() is None
    assert mtus.mtu_of(KEY) is None
    assert not mtus.on_answer(999, 0.1, now=1.0)
