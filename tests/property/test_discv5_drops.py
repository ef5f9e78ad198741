"""Each reason to drop a packet is met, and its counter alone goes up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ginnel.discv5.events import Drop
from support.discv5_net import Net
from support.discv5_scenes import SCENES, TIGHT, Scene


@pytest.mark.parametrize(("reason", "play"), SCENES, ids=[play.__name__ for _, play in SCENES])
def test_each_reason_is_counted(reason: Drop, play: Callable[[Scene], None]) -> None:
    net = Net(61)
    scene = Scene(net, net.add(0, config=TIGHT))
    play(scene)
    counted = {drop: count for drop, count in scene.host.core.drops.items() if count}
    assert counted == {reason: 1}


def test_no_reason_is_left_out() -> None:
    assert {reason for reason, _ in SCENES} == set(Drop)
