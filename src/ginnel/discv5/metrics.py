"""Counters of one node, and how they are shown to a monitoring system.

The core counts into a `Metrics`; `samples` turns it, with the state of the moment, into values that
`prometheus_text` prints and `make_collector` hands to `prometheus_client` where that is installed.
The four counters of seed 001 keep their names: `discovery_message_requests_outgoing` and
`_incoming` (label `response`: empty for every request, `no_response`, `invalid_response`),
`discovery_unsolicited_messages`, `discovery_enr_auto_update`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from typing import Any

from ginnel.base.errors import UsageError

ALL = ""  # label `response` of the counter of all requests
NO_RESPONSE = "no_response"
INVALID_RESPONSE = "invalid_response"


@dataclass(slots=True)
class Metrics:
    """What one node has counted since it began."""

    requests_outgoing: Counter[str] = field(default_factory=Counter)  # by label `response`
    requests_incoming: Counter[str] = field(default_factory=Counter)  # by label `response`
    unsolicited_messages: int = 0
    enr_auto_update: int = 0
    handshakes_initiated: int = 0  # challenges that we answered
    handshakes_accepted: int = 0  # answers to our challenges that were right
    challenges_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    packets_sent: int = 0
    bytes_sent: int = 0
    bans: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One value: `kind` is `counter` or `gauge`."""

    name: str
    kind: str
    help: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class State:
    """Sizes of the moment."""

    sessions: int
    table_nodes: int
    table_seen: int
    requests_open: int


def samples(metrics: Metrics, drops: Mapping[Any, int], state: State) -> Iterator[Sample]:
    """Yield every value of one node; those of one name follow each other."""
    yield from _labelled(
        "discovery_message_requests_outgoing",
        "Discovery protocol outgoing message requests",
        "response",
        {ALL: 0, NO_RESPONSE: 0, INVALID_RESPONSE: 0, **metrics.requests_outgoing},
    )
    yield from _labelled(
        "discovery_message_requests_incoming",
        "Discovery protocol incoming message requests",
        "response",
        {ALL: 0, NO_RESPONSE: 0, **metrics.requests_incoming},
    )
    for name, help_text, value in (
        (
            "unsolicited_messages",
            "Discovery protocol unsolicited or timed-out messages",
            metrics.unsolicited_messages,
        ),
        (
            "enr_auto_update",
            "Amount of discovery IP:port address ENR auto updates",
            metrics.enr_auto_update,
        ),
        ("handshakes_initiated", "Challenges answered", metrics.handshakes_initiated),
        ("handshakes_accepted", "Handshakes of others accepted", metrics.handshakes_accepted),
        ("challenges_sent", "WHOAREYOU packets sent", metrics.challenges_sent),
        ("packets_received", "Packets received", metrics.packets_received),
        ("bytes_received", "Bytes received in packets", metrics.bytes_received),
        ("packets_sent", "Packets sent", metrics.packets_sent),
        ("bytes_sent", "Bytes sent in packets", metrics.bytes_sent),
        ("bans", "Bans for protocol violations", metrics.bans),
    ):
        yield Sample(f"discovery_{name}", "counter", help_text, (), value)
    reasons = {_label(reason): count for reason, count in drops.items()}
    yield from _labelled("discovery_drops", "Packets and messages dropped", "reason", reasons)
    for name, help_text, value in (
        ("sessions", "Sessions in the cache", state.sessions),
        ("table_nodes", "Nodes in the routing table", state.table_nodes),
        ("table_seen_nodes", "Nodes in the routing table that answered", state.table_seen),
        ("requests_open", "Requests under way", state.requests_open),
    ):
        yield Sample(f"discovery_{name}", "gauge", help_text, (), value)


def failed_sends(count: int) -> Sample:
    """Return the value that the sockets of a node count."""
    help_text = "Packets that the system did not send"
    return Sample("discovery_sends_failed", "counter", help_text, (), count)


def prometheus_text(values: Iterable[Sample]) -> str:
    """Return the values in Prometheus' text format (exposition format 0.0.4)."""
    lines: list[str] = []
    last = ""
    for sample in values:
        name = f"{sample.name}_total" if sample.kind == "counter" else sample.name
        if name != last:
            lines += [f"# HELP {name} {sample.help}", f"# TYPE {name} {sample.kind}"]
            last = name
        labels = ",".join(f'{key}="{value}"' for key, value in sample.labels)
        lines.append(f"{name}{{{labels}}} {sample.value}" if labels else f"{name} {sample.value}")
    return "\n".join(lines) + "\n"


class Collector:
    """What `prometheus_client` asks at each scrape; make it by `make_collector`."""

    def __init__(self, core: Any, read: Callable[[], Iterable[Sample]]) -> None:  # noqa: ANN401  (an untyped module)
        self._core = core
        self._read = read

    def collect(self) -> Iterator[Any]:
        """Yield the metric families of the moment."""
        families: dict[str, Any] = {}
        for sample in self._read():
            keys = [key for key, _ in sample.labels]
            if sample.name not in families:
                kind = "CounterMetricFamily" if sample.kind == "counter" else "GaugeMetricFamily"
                make = getattr(self._core, kind)
                families[sample.name] = make(sample.name, sample.help, labels=keys)
            labels = [value for _, value in sample.labels]
            families[sample.name].add_metric(labels, sample.value)
        yield from families.values()


def make_collector(read: Callable[[], Iterable[Sample]]) -> Collector:
    """Return a collector for `prometheus_client`'s `REGISTRY.register`.

    Raises:
        UsageError: `prometheus_client` is not installed.
    """
    try:
        return Collector(import_module("prometheus_client.core"), read)
    except ImportError:
        raise UsageError("prometheus_client is not installed; use prometheus_text") from None


def _labelled(name: str, text: str, key: str, values: Mapping[str, int]) -> Iterator[Sample]:
    for label, value in values.items():
        yield Sample(name, "counter", text, ((key, label),), value)


def _label(reason: object) -> str:
    return reason.name.lower() if isinstance(reason, Enum) else str(reason)
