"""Small text files: read whole, replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ginnel.base.errors import SystemFailure


def read_text(path: Path) -> str | None:
    """Return what is in the file, None if there is none.

    Raises:
        SystemFailure: it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SystemFailure(f"can't read {path}: {error.strerror}") from error


def replace_text(path: Path, text: str) -> None:
    """Write the file anew.

    Raises:
        SystemFailure: it can't be written; the old one is still there.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise SystemFailure(f"can't write {path}: {error.strerror}") from error
