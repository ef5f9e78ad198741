"""The option --spawn: a program with its arguments, written as in a shell."""

from __future__ import annotations

import shlex

from ginnel.base.errors import UsageError


def split_command(text: str) -> list[str]:
    """Return the program and its arguments.

    Raises:
        UsageError: a quote does not close, or nothing is there.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--spawn {text!r}: {error}") from None
    if not words:
        raise UsageError(f"--spawn {text!r}: no program")
    return words
