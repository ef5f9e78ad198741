"""Coroutines that run beside the callbacks of a loop, bounded in number and time.

For shells that live on callbacks and so have no task that a TaskGroup could belong to: the owner
stops its jobs at once by `cancel` and waits for their end by `join`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Jobs:
    """Jobs of one owner.

    Args:
        limit: jobs at work at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_full(self) -> bool:
        """Say whether a further job would be refused."""
        return len(self._tasks) >= self._limit

    def start(self, job: Coroutine[Any, Any, None]) -> bool:
        """Begin a job, which handles its own errors; False (and it never runs) if too many do."""
        if self.is_full:
            job.close()
            return False
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def cancel(self) -> None:
        """Cancel all jobs."""
        for task in self._tasks:
            task.cancel()

    async def join(self) -> None:
        """Wait until all jobs have ended, whatever their end."""
        while self._tasks:
            await asyncio.wait(self._tasks)
