"""Counters and how they are shown."""

from __future__ import annotations

import sys

import pytest

from ginnel.base.errors import UsageError
from ginnel.discv5.events import Drop
from ginnel.discv5.metrics import (
    ALL,
    NO_RESPONSE,
    Metrics,
    State,
    make_collector,
    prometheus_text,
    samples,
)

STATE = State(sessions=3, table_nodes=20, table_seen=18, requests_open=1)


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.requests_outgoing[ALL] += 5
    metrics.requests_outgoing[NO_RESPONSE] += 2
    metrics.unsolicited_messages = 4
    metrics.bytes_sent = 1000
    return metrics


def test_text_has_the_names_of_the_seed(metrics: Metrics) -> None:
    lines = prometheus_text(samples(metrics, {Drop.BAD_KEY: 7}, STATE)).splitlines()
    assert 'discovery_message_requests_outgoing_total{response=""} 5' in lines
    assert 'discovery_message_requests_outgoing_total{response="no_response"} 2' in lines
    assert 'discovery_message_requests_outgoing_total{response="invalid_response"} 0' in lines
    assert 'discovery_message_requests_incoming_total{response=""} 0' in lines
    assert "discovery_unsolicited_messages_total 4" in lines
    assert "discovery_enr_auto_update_total 0" in lines
    assert "discovery_bytes_sent_total 1000" in lines
    assert 'discovery_drops_total{reason="bad_key"} 7' in lines
    assert "discovery_table_nodes 20" in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_without_prometheus_client_the_collector_says_what_there_is_instead(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(UsageError, match="prometheus_text"):
        make_collector(lambda: samples(metrics, {}, STATE))


def test_prometheus_client_reads_the_same(metrics: Metrics) -> None:
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    registry.register(make_collector(lambda: samples(metrics, {Drop.SOURCE: 1}, STATE)))
    labels = {"response": "no_response"}
    name = "discovery_message_requests_outgoing_total"
    assert registry.get_sample_value(name, labels) == 2
    assert registry.get_sample_value("discovery_drops_total", {"reason": "source"}) == 1
    assert registry.get_sample_value("discovery_sessions") == 3
    ours = prometheus_text(samples(metrics, {Drop.SOURCE: 1}, STATE)).splitlines()
    theirs = client.generate_latest(registry).decode().splitlines()
    assert {line.split()[0] for line in ours} == {line.split()[0] for line in theirs}
