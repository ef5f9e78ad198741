"""Open STUN requests of one agent: retransmission with growing gaps, and giving up.

Source: RFC 8489 section 6.2.1; RFC 8445 section 14.3 (RTO).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ginnel.base.types import Transmit
from ginnel.ice.pair import CandidatePair

MIN_RTO = 0.5  # s, RFC 8445 section 14.3
MAX_SENDS = 5  # at 0, 0.5, 1.5, 3.5, 7.5 s; RFC's 7 would take 39.5 s, more than a person waits
LAST_WAIT = 2.5  # s after the last send; with the above a check fails after 10 s
MAX_TRANSACTIONS = 256  # open requests of one agent: 100 pairs, each with one replaced check


class Purpose(Enum):
    """Why a request was sent."""

    CHECK = "check"
    NOMINATION = "nomination"
    CONSENT = "consent"


@dataclass(eq=False, slots=True)
class Transaction:
    """One request, kept until its answer came or nobody waits for it any more."""

    id: bytes
    pair: CandidatePair
    purpose: Purpose
    controlling: bool  # our role when it was sent
    transmit: Transmit
    rto: float
    sent_at: float  # first send
    next_at: float
    sends: int = 1
    retransmits: bool = True


@dataclass(slots=True)
class Transactions:
    """The open requests, oldest first."""

    _open: dict[bytes, Transaction] = field(default_factory=dict)

    def __contains__(self, transaction_id: bytes) -> bool:
        return transaction_id in self._open

    def __len__(self) -> int:
        return len(self._open)

    def add(self, transaction: Transaction) -> None:
        """Keep a request that was just sent; the oldest goes if there are too many."""
        if len(self._open) >= MAX_TRANSACTIONS:
            del self._open[next(iter(self._open))]
        self._open[transaction.id] = transaction

    def get(self, transaction_id: bytes) -> Transaction | None:
        """Return the open request of this id, or None."""
        return self._open.get(transaction_id)

    def pop(self, transaction_id: bytes) -> Transaction | None:
        """Forget the request and return it, or None."""
        return self._open.pop(transaction_id, None)

    def stop_retransmits(self, pair: CandidatePair) -> None:
        """Send requests of this pair no more, but still take their answers (section 7.3.1.4)."""
        for transaction in self._open.values():
            if transaction.pair is pair:
                transaction.retransmits = False

    def drop_all_but(self, pair: CandidatePair) -> None:
        """Forget the requests of all other pairs."""
        self._open = {key: t for key, t in self._open.items() if t.pair is pair}

    def clear(self) -> None:
        """Forget all."""
        self._open.clear()

    def has(self, pair: CandidatePair, purpose: Purpose) -> bool:
        """Say whether a request with this purpose is open on the pair."""
        return any(
            t.pair is pair and t.purpose is purpose and t.retransmits for t in self._open.values()
        )

    def due(self, now: float) -> tuple[list[Transaction], list[Transaction]]:
        """Return the requests to send again and those that timed out (these are forgotten)."""
        again: list[Transaction] = []
        over: list[Transaction] = []
        for transaction in list(self._open.values()):
            if transaction.next_at > now:
                continue
            if transaction.retransmits and transaction.sends < MAX_SENDS:
                transaction.sends += 1
                last = transaction.sends == MAX_SENDS
                gap = LAST_WAIT if last else transaction.rto * 2 ** (transaction.sends - 1)
                transaction.next_at = now + gap
                again.append(transaction)
            else:
                del self._open[transaction.id]
                over.append(transaction)
        return again, over

    def next_at(self) -> float | None:
        """Return when `due` has something to say, or None."""
        return min((t.next_at for t in self._open.values()), default=None)
