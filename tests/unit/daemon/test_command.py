"""How Ginnel starts itself again."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ginnel.daemon.command import COMMAND


def test_modules_of_the_working_folder_are_not_imported(tmp_path: Path) -> None:
    for name in ("nt", "click", "ginnel", "decimal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger ran')")
    done = subprocess.run(
        [*COMMAND, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
