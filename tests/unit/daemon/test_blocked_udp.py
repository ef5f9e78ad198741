"""When UDP counts as blocked."""

import random

from ginnel.daemon.blocked_udp import BLOCKED_AFTER, TELL_AFTER, BlockedUdp
from ginnel.mesh.relays import Relays


def test_silence_is_taken_for_a_block_and_told_later_once() -> None:
    rng = random.Random(1)
    relays = Relays(random_bytes=rng.randbytes, rng=rng)
    blocked = BlockedUdp()
    blocked.heard(100.0)
    assert not blocked.is_blocked(100.0 + BLOCKED_AFTER - 0.1)
    assert blocked.is_blocked(100.0 + BLOCKED_AFTER)
    assert blocked.notice(relays, now=100.0 + BLOCKED_AFTER) is None
    told = blocked.notice(relays, now=100.0 + TELL_AFTER)
    assert told is not None
    assert "TURN server" in told.text
    assert blocked.notice(relays, now=101.0 + TELL_AFTER) is None
    blocked.heard(200.0)
    assert not blocked.is_blocked(200.0)
    ended = blocked.notice(relays, now=200.0)
    assert ended is not None
    assert ended.text == ""
