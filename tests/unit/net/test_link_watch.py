from __future__ import annotations

import select

import pytest

from ginnel.net.link_watch import LinkWatch


@pytest.fixture
def loopback() -> LinkWatch:
    return LinkWatch("lo")


def test_the_mtu_of_a_device(loopback: LinkWatch) -> None:
    assert loopback.mtu() is not None
    loopback.drain()
    assert select.select([loopback], [], [], 0)[0] == []
    loopback.close()


def test_a_device_that_is_not_there() -> None:
    watch = LinkWatch("gn-none")
    assert watch.mtu() is None
    watch.close()
