"""The revocations that a member knows, and until when each counts.

A set that only grows: of a member or serial until no certificate can be left that it names, of an
admin for ever, because his own object outlives every certificate. Signatures are `membership.py`'s
business.

Invariant: one is kept for each kind, subject and signer; of members and serials MAX_REVOCATIONS at
most. Those of admins always find room: the root key alone signs them, and who stole an admin's key
could fill the rest.

Source: docs/formats.md, "Signed objects".
"""

from __future__ import annotations

from collections.abc import Callable

from ginnel.mesh import derive
from ginnel.mesh.certcheck import Refusal
from ginnel.mesh.objects import CERTIFICATE_LIFE_S, DAY_S, Revocation, RevocationKind

MAX_REVOCATIONS = 16_384  # of members and serials: more than certificates can be
KEPT_S = CERTIFICATE_LIFE_S + 30 * DAY_S  # seconds after `at` (Signed objects)


class RevocationBook:
    """Known revocations.

    `is_void` says whether a signer's key has been revoked: what he revoked counts no more.
    """

    def __init__(self, is_void: Callable[[bytes], bool]) -> None:
        self._is_void = is_void
        self._known: dict[tuple[int, bytes, bytes], Revocation] = {}
        self._admins: set[bytes] = set()  # the admin ids among them

    def check(self, revocation: Revocation, *, confirmed_at: float) -> Refusal | None:
        """Say why a revocation is not to be added."""
        former = self._known.get(_key(revocation))
        if former is not None and former.at >= revocation.at:
            return Refusal.OLDER
        if _counts_until(revocation) < confirmed_at:
            return Refusal.EXPIRED
        if former is not None or revocation.kind is RevocationKind.ADMIN:
            return None
        return Refusal.FULL if len(self._known) - len(self._admins) >= MAX_REVOCATIONS else None

    def add(self, revocation: Revocation) -> Revocation | None:
        """Keep a verified revocation; return the one of the same that goes for it."""
        former = self._known.get(_key(revocation))
        self._known[_key(revocation)] = revocation
        if revocation.kind is RevocationKind.ADMIN:
            self._admins.add(revocation.subject)
        return former

    def is_admin_revoked(self, admin_id: bytes) -> bool:
        """Say whether an admin is; of other kinds `in_force` tells."""
        return admin_id in self._admins

    def in_force(self, *, unix_now: float) -> dict[tuple[int, bytes], None]:
        """Return what is revoked; what a revoked admin revoked is void until another repeats it."""
        return {
            (int(revocation.kind), revocation.subject): None
            for revocation in self._known.values()
            if _counts_until(revocation) >= unix_now and not self._is_void(revocation.object.signer)
        }

    def objects(self) -> tuple[Revocation, ...]:
        """Return all known revocations, in force or not."""
        return tuple(self._known.values())

    def ends(self) -> list[float]:
        """Return the wall times at which the answer of `in_force` changes by itself."""
        return [_counts_until(revocation) + 1 for revocation in self._known.values()]

    def expire(self, *, confirmed_at: float) -> tuple[Revocation, ...]:
        """Drop what a confirmed time has passed; return those."""
        gone = tuple(r for r in self._known.values() if _counts_until(r) < confirmed_at)
        for revocation in gone:
            del self._known[_key(revocation)]
        return gone


def _key(revocation: Revocation) -> tuple[int, bytes, bytes]:
    return int(revocation.kind), revocation.subject, revocation.object.signer


def _counts_until(revocation: Revocation) -> float:
    if revocation.kind is RevocationKind.ADMIN:
        return float("inf")  # its admin's object may be ten years old, and would be in force again
    return revocation.at + KEPT_S + derive.CLOCK_TOLERANCE_S
