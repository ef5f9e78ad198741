"""Waiting in tests for what a running loop will bring about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

ENOUGH = 30.0  # seconds


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; raise TimeoutError if it never does."""
    async with asyncio.timeout(ENOUGH):
        while not condition():  # noqa: ASYNC110  (nobody tells of it)
            await asyncio.sleep(0)
