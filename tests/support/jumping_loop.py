"""An asyncio loop whose clock jumps to the next timer, so that minutes of a shell pass at once.

For loopback sockets and for what runs in the loop: what threads do meanwhile takes no time on it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits while a timer is due some time; `ahead` is what it did not wait."""

    ahead = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            self.ahead += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._selected = _JumpingSelector()
        super().__init__(self._selected)

    def time(self) -> float:
        return super().time() + self._selected.ahead


def run_jumping(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main)
