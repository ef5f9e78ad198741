"""A candidate pair: one local base and one remote candidate, with the state of its checks.

Source: RFC 8445 sections 6.1.2.2, 6.1.2.3 and 6.1.2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ginnel.ice.candidate import Candidate


class PairState(Enum):
    """RFC 8445 section 6.1.2.6."""

    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(eq=False, slots=True)
class CandidatePair:
    """`local` is a base of ours (host or relay); pairs are compared by identity.

    `mapped` is the local candidate that a successful check showed (section 7.2.5.3.1): the pair
    (mapped, remote) is the valid pair.
    """

    local: Candidate
    remote: Candidate
    state: PairState = PairState.FROZEN
    priority: int = 0
    mapped: Candidate | None = None
    nominated: bool = False  # USE-CANDIDATE was seen or confirmed on it
    first_sent_at: float | None = None
    latency: float | None = None  # seconds, of the last answered check
    failure: str = ""  # why it failed, in words

    @property
    def is_relayed(self) -> bool:
        """Say whether either end is an address at a relay."""
        return self.local.is_relayed or self.remote.is_relayed

    def result(self) -> str:
        """Return in words what its last check came to."""
        if self.state is PairState.FAILED:
            return self.failure or "failed"
        if self.state is PairState.SUCCEEDED:
            took = "" if self.latency is None else f" after {self.latency * 1000:.0f} ms"
            return f"answered{took}" + (", in use" if self.nominated else "")
        if self.state is PairState.IN_PROGRESS:
            return "asked, no answer yet"
        return "not asked yet" if self.first_sent_at is None else "to be asked again"

    @property
    def is_valid(self) -> bool:
        """Say whether a check on it succeeded."""
        return self.state is PairState.SUCCEEDED

    @property
    def foundation(self) -> tuple[str, str]:
        """Return both foundations: pairs with equal ones are likely to fare alike."""
        return self.local.foundation, self.remote.foundation

    def __str__(self) -> str:
        return f"{self.local} - {self.remote} ({self.state.value})"


def pair_priority(controlling: int, controlled: int) -> int:
    """Return the pair's priority from both candidates' (section 6.1.2.3)."""
    low, high = sorted((controlling, controlled))
    return (low << 32) + 2 * high + (controlling > controlled)
