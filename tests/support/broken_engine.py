"""Lets a tunnel's data plane fail at SIGUSR1, as it does when one of its threads panicked.

`install` runs before Ginnel is imported (see `witness.environment`).
"""

from __future__ import annotations

import signal
import sys
from typing import Any


class BrokenPlane:
    """A data plane whose every call raises once it is broken."""

    is_broken = False

    def __init__(self, plane: Any) -> None:  # noqa: ANN401  # the extension's own class
        self._plane = plane

    def __getattr__(self, name: str) -> object:
        if type(self).is_broken:
            raise RuntimeError("a thread of the data plane panicked")
        return getattr(self._plane, name)


def install(_folder: str) -> None:
    """Stand between this process and its data plane if it is a tunnel."""
    words = sys.orig_argv
    if "tunnel" not in words or "ginnel.cli.main" not in words:
        return
    from ginnel import _native

    real: Any = _native.DataPlane

    def start(*words: object, **settings: object) -> BrokenPlane:
        return BrokenPlane(real(*words, **settings))

    def on_signal(_number: int, _frame: object) -> None:
        BrokenPlane.is_broken = True

    setattr(_native, "DataPlane", start)  # noqa: B010  # it is no attribute of ours
    signal.signal(signal.SIGUSR1, on_signal)
