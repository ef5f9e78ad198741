"""Where chance comes in: two sources, passed to constructors and never swapped.

`RandomBytes` is for keys, nonces, ufrag, pwd and transaction ids; `Rng` for jitter and shuffles.
`os.urandom` and `random.Random(seed)` fit.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import Any, Protocol, TypeAlias

RandomBytes: TypeAlias = Callable[[int], bytes]

DRAW_SIZE = 960  # bytes drawn at once: IV and nonce of forty packets


class DrawnAhead:
    """Random bytes drawn from another source in large pieces: one system call for many packets.

    For what is sent in the open (IVs, nonces), not for keys: bytes stay in memory after use.
    """

    __slots__ = ("_at", "_bytes", "_source")

    def __init__(self, source: RandomBytes) -> None:
        self._source = source
        self._bytes = b""
        self._at = 0

    def __call__(self, size: int) -> bytes:
        """Return fresh bytes."""
        end = self._at + size
        if end > len(self._bytes):
            self._bytes = self._source(max(size, DRAW_SIZE))
            self._at, end = 0, size
        drawn = self._bytes[self._at : end]
        self._at = end
        return drawn


class Rng(Protocol):
    """Chance without secrets; `random.Random` fits."""

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...

    def uniform(self, a: float, b: float) -> float:
        """Return a float between a and b."""
        ...

    def randrange(self, start: int, stop: int) -> int:
        """Return an int in [start, stop)."""
        ...

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Shuffle in place."""
        ...
