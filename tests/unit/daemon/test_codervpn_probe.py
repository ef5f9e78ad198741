"""The probe passes the programs of docs/codervpn.md, in all combinations, and fails others."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ginnel.codervpn.header import Dialect, Role, Version
from ginnel.daemon.codervpn_probe import Probe

DOCS = Path(__file__).parents[3] / "docs/codervpn.md"
MAX_LINES = 30  # of an example, blank ones not counted


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, list[str]]:
    """Return the commands of the examples by role."""
    found: dict[str, list[str]] = {}
    for role, code in re.findall(r"```python (\w+)\n(.*?)```", DOCS.read_text(), re.DOTALL):
        assert sum(bool(line.strip()) for line in code.splitlines()) <= MAX_LINES
        path = tmp_path / f"{role}.py"
        path.write_text(code)
        found[role] = [sys.executable, str(path)]
    return found


@pytest.mark.parametrize("version", [Version(1, 0), Version(1, 3)])
@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("role", list(Role))
def test_the_examples_pass(
    programs: dict[str, list[str]], role: Role, dialect: Dialect, version: Version
) -> None:
    is_thorough = (dialect, version) == (Dialect.SEED, Version(1, 3))
    steps = Probe(programs[role.value], role, dialect, version, is_thorough=is_thorough).run()
    assert [step for step in steps if step.problem is not None] == []
    assert len(steps) >= (13 if is_thorough else 5)


@pytest.mark.parametrize(
    ("program", "failing"),
    [
        ("print('codervpn 1.3 manager', file=to, flush=True); fro.read()", "header"),
        ("print('hello', file=to, flush=True); fro.read()", "header"),
        ("print('codervpn 1.3 tunnel', file=to, flush=True)", "a full update before Start"),
    ],
)
def test_a_broken_program_fails_at_the_step(program: str, failing: str) -> None:
    code = f"import sys\nfro, to = open(3, 'rb'), open(4, 'w')\n{program}"
    steps = Probe([sys.executable, "-c", code], Role.TUNNEL, is_thorough=False).run()
    assert next(step.name for step in steps if step.problem) == failing


def test_a_program_that_is_not_there() -> None:
    steps = Probe(["/nonexistent"], Role.TUNNEL, is_thorough=False).run()
    assert steps[0].problem is not None
