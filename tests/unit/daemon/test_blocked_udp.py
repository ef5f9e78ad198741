"""When UDP counts as blocked."""

import random

from ginnel.daemon.blocked_udp import BLOCKED_AFTER, LEAST_UNANSWERED, TELL_AFTER, BlockedUdp
from ginnel.mesh.relays import Relays


def test_silence_is_taken_for_a_block_and_told_later_once() -> None:
    rng = random.Random(1)
    relays = Relays(random_bytes=rng.randbytes, rng=rng)
    blocked = BlockedUdp()
    blocked.asked(0, now=90.0)
    blocked.asked(LEAST_UNANSWERED, now=100.0)
    assert not blocked.is_blocked(100.0 + BLOCKED_AFTER - 0.1)
    assert blocked.is_blocked(100.0 + BLOCKED_AFTER)
    assert blocked.notice(relays, now=100.0 + BLOCKED_AFTER) is None
    told = blocked.notice(relays, now=100.0 + TELL_AFTER)
    assert told is not None
    assert "TURN server" in told.text
    assert blocked.notice(relays, now=101.0 + TELL_AFTER) is None
    blocked.heard()
    blocked.asked(LEAST_UNANSWERED + 1, now=200.0)
    assert not blocked.is_blocked(200.0)
    ended = blocked.notice(relays, now=200.0)
    assert ended is not None
    assert ended.text == ""


def test_a_quiet_node_and_a_node_that_asks_one_that_is_off_are_not_blocked() -> None:
    blocked = BlockedUdp()
    blocked.asked(10, now=0.0)
    blocked.asked(10, now=1000.0)
    assert not blocked.is_blocked(1000.0)
    blocked.asked(10 + LEAST_UNANSWERED - 1, now=1001.0)
    assert not blocked.is_blocked(2000.0)
    blocked.heard()
    blocked.asked(20, now=2001.0)  # these went out before the answer came
    assert not blocked.is_blocked(3000.0)
