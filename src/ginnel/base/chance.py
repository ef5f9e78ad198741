"""Where chance comes in: two sources, passed to constructors and never swapped.

`RandomBytes` is for keys, nonces, ufrag, pwd and transaction ids; `Rng` for jitter and shuffles.
`os.urandom` and `random.Random(seed)` fit.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import Any, Protocol, TypeAlias

RandomBytes: TypeAlias = Callable[[int], bytes]


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
