"""Datagrams that could not be sent."""

from __future__ import annotations

import pytest

from ginnel.net.failures import WARN_INTERVAL, SendFailures


def test_failures_are_counted_and_warned_of_rarely(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    failures = SendFailures(warns=True, clock=lambda: now)
    for _ in range(50):
        failures.add("no route")
    now += WARN_INTERVAL
    failures.add("a firewall")
    failures.add("a firewall")
    assert failures.count == 52
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        "1 packet(s) could not be sent, the last one: no route",
        "50 packet(s) could not be sent, the last one: a firewall",
    ]


def test_where_addresses_are_only_tried_nobody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    failures = SendFailures(warns=False)
    failures.add("no route")
    assert failures.count == 1
    assert caplog.records == []
