"""Every kind of NAT at least twice, connected for real; `make matrix` runs all pairs.

Two machines of each kind, coturn for what has to be relayed, and a second lab with IPv6; see
`support/matrix.py`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator

import pytest

from support.matrix import (
    KINDS,
    SHARED,
    V6_KINDS,
    Case,
    Expected,
    Outcome,
    cells,
    expectation,
    make_case,
    runner,
)

pytestmark = [
    pytest.mark.netns(tun=False),
    pytest.mark.skipif(shutil.which("turnserver") is None, reason="Debian's coturn is not here"),
]

JOBS = 4  # runs at once
PAIRS = (
    ("udp-blocked", "none"),  # without a server for it: the slowest first
    ("udp-blocked", "tcp443"),  # these by TCP and TLS
    ("tcp443", "port-restricted"),
    ("none", "symmetric"),
    ("full-cone", "symmetric-seq"),
    ("full-cone", "cgnat"),
    ("addr-restricted", "symmetric"),
    ("addr-restricted", "hairpin"),
    ("port-restricted", "cgnat"),
    ("port-restricted", "symmetric-seq"),
    ("leaky", "leaky"),
    ("hairpin", "none"),
    ("one home", "one home"),
    ("ipv6-only", "dual"),
    ("ipv6-only", "ipv6-broken"),
    ("dual", "ipv6-broken"),
)


def case_of(pair: tuple[str, str]) -> Case:
    """Return the first run of a pair that has no loss: nothing here depends on luck."""
    everything = cells()
    (index,) = (i for i, cell in enumerate(everything) if sorted(cell) == sorted(pair))
    found = (make_case(index + len(everything) * turn) for turn in range(100))
    needs = pair == PAIRS[0]
    return next(
        case
        for case in found
        if not case.is_lossy
        and (expectation(case.kinds, case.turns) is Expected.NEEDS_RELAY) == needs
    )


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[tuple[str, str], Outcome]]:
    cases = [case_of(pair) for pair in PAIRS]
    with runner(cases, print) as runs:
        yield dict(zip(PAIRS, runs.run(cases, JOBS), strict=True))


@pytest.mark.parametrize("pair", PAIRS, ids=" - ".join)
def test_a_pair_is_direct_where_it_can_be_else_relayed(
    pair: tuple[str, str], outcomes: dict[tuple[str, str], Outcome]
) -> None:
    outcome = outcomes[pair]
    assert not outcome.failure, f"{outcome.case}: {outcome.failure}; {outcome.text}"


def test_each_kind_is_met_twice() -> None:
    met = Counter(kind for pair in PAIRS for kind in pair)
    assert all(met[kind] >= 2 for kind in (*KINDS, SHARED, *V6_KINDS))


def test_runs_are_decided_by_their_seeds() -> None:
    assert [make_case(seed) for seed in range(100)] == [make_case(seed) for seed in range(100)]
    whole = [make_case(seed) for seed in range(500)]
    assert {tuple(sorted(case.kinds)) for case in whole} == {tuple(sorted(c)) for c in cells()}
    assert 0.25 < sum(case.is_lossy for case in whole) / len(whole) < 0.4
