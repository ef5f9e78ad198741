"""Text and JSON of what the commands read: tables, durations, sizes.

No colour: what a terminal shows and what a pipe gets are the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

SCHEMA = 1  # of every `--json` output; raised when a key changes its meaning


def show_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object, indented."""
    click.echo(json.dumps(value, indent=2))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows in aligned columns under a head; the last column is not padded."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    """Return `12 s`, `3 min`, `5 h`, `2 d`, or `never` for None."""
    if seconds is None:
        return "never"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def milliseconds(seconds: float | None) -> str:
    """Return a latency as `1.2 ms`, or `-`."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def size(count: int) -> str:
    """Return a number of bytes as `512 B`, `1.5 KiB`, `3.0 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
