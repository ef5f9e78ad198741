"""What all benchmarks share: measurements side by side, medians, a table for people, JSON.

Machines are noisy, so what is compared is measured in turns, several rounds of it, and each round
gives one ratio: the figures are medians, and the spread is that of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; a ratio above 1 is better for us whatever the unit.

    Args:
        peer: whom we compare with, or the limit that we set ourselves.
        ratio: median of the rounds' ratios.
        target: the least ratio wanted, None where nothing was promised.
        spread: the lowest and the highest ratio of a round.
        runs: every round's value of ours, and of theirs.
    """

    name: str
    ours: float
    peer: str
    peer_value: float
    ratio: float
    target: float | None
    unit: str
    spread: tuple[float, float]
    runs: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def is_met(self) -> bool:
        """Say whether the target is reached, or there is none."""
        return self.target is None or self.ratio >= self.target


def compare(
    name: str,
    unit: str,
    ours: Sequence[float],
    peer: str,
    theirs: Sequence[float],
    *,
    target: float | None = None,
    less_is_better: bool = False,
) -> Row:
    """Make a row of measurements: one value of each side for each round."""
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [_divide(b, a) if less_is_better else _divide(a, b) for a, b in pairs]
    return Row(
        name,
        round(statistics.median(ours), 4),
        peer,
        round(statistics.median(theirs), 4),
        round(statistics.median(ratios), 3),
        target,
        unit,
        (round(min(ratios), 3), round(max(ratios), 3)),
        (tuple(round(a, 4) for a, _ in pairs), tuple(round(b, 4) for _, b in pairs)),
    )


def below(
    name: str,
    unit: str,
    ours: Sequence[float],
    limit: float,
    what: str,
    *,
    target: float | None = 1.0,
) -> Row:
    """Make a row of a figure that must stay below a limit of our own."""
    return compare(name, unit, ours, what, [limit] * len(ours), target=target, less_is_better=True)


async def in_turns(
    rounds: int, sides: Mapping[str, Callable[[], Awaitable[float]]]
) -> dict[str, list[float]]:
    """Measure every side once a round; who begins changes from round to round."""
    values: dict[str, list[float]] = {side: [] for side in sides}
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        for side in names[first:] + names[:first]:
            values[side].append(await sides[side]())
    return values


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used so far, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def proportional_mb(pid: int) -> float:
    """Return the memory of a process, its share only of what others have too (PSS), in 2**20."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no memory figures of process {pid}")


def resident_mb(pid: int) -> float:
    """Return the memory of a process that is in RAM and its own, in MB (10**6 bytes)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no memory figures of process {pid}")


def report(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """Return the table for people."""
    head = ("", "ours", "other", "", "ratio", "rounds", "target", "")
    lines = [
        (
            row.name,
            _number(row.ours),
            row.peer,
            f"{_number(row.peer_value)} {row.unit}",
            f"{row.ratio:.2f}",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            "" if row.target is None else f"{row.target:g}",
            "" if row.target is None else ("ok" if row.is_met else "MISSED"),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    text = [title, ""]
    text += [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    ]
    return "\n".join([*text, "", *notes])


def publish(
    name: str,
    title: str,
    rows: Sequence[Row],
    notes: Sequence[str] = (),
    only_print: bool = False,
    setup: Mapping[str, object] | None = None,
) -> None:
    """Print the table and write results/NAME.json: title, rows, notes, and how it was set up."""
    print(report(title, rows, notes))
    if only_print:
        return
    RESULTS.mkdir(exist_ok=True)
    content: dict[str, object] = {
        "title": title,
        "rows": [asdict(row) for row in rows],
        "notes": list(notes),
    }
    if setup:
        content["setup"] = dict(setup)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"\nwritten to benchmarks/results/{path.name}", file=sys.stderr)


def _divide(a: float, b: float) -> float:
    return a / b if b else float("inf") if a else 1.0


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
