"""Events of a core as an async iterator, for those who would rather loop than be called."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Self, TypeVar

EVENT_LIMIT = 1024  # events that wait in one stream

EventT = TypeVar("EventT")


class EventStream(Generic[EventT]):
    """An async iterator over events; one that is read too slowly loses the oldest."""

    def __init__(self) -> None:
        self._events: deque[EventT] = deque(maxlen=EVENT_LIMIT)
        self._arrived = asyncio.Event()
        self._is_closed = False
        self.missed = 0

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> EventT:
        """Return the next event; it ends when the stream or the node is closed."""
        while not self._events:
            if self._is_closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    def put(self, event: EventT) -> None:
        """Take an event; harmless after the end."""
        if not self._is_closed:
            self.missed += len(self._events) >= EVENT_LIMIT
            self._events.append(event)
            self._arrived.set()

    def close(self) -> None:
        """End: what came before is still read."""
        self._is_closed = True
        self._arrived.set()

    @property
    def is_closed(self) -> bool:
        """Say whether it was closed."""
        return self._is_closed
