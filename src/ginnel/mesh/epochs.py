"""The epochs that a member knows: their signed objects and their secrets.

An epoch is usable once both are known. Minting is not here; `membership.py` checks signatures.

Invariant: at most `MAX_EPOCHS` are kept, and the newest is never dropped.

Source: docs/formats.md, "Epochs".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ginnel.base.types import Secret
from ginnel.mesh import derive
from ginnel.mesh.objects import DAY_S, Epoch

MAX_EPOCHS = 8  # kept (Epochs)
KEPT_S = 90 * DAY_S  # seconds an epoch is kept (Epochs)
ACCEPTED_S = DAY_S  # seconds all known epochs stay accepted after a newer one (Epochs)


@dataclass(frozen=True)
class EpochKey:
    """A usable epoch: object and secret."""

    epoch: Epoch
    secret: Secret

    @property
    def epoch_id(self) -> bytes:
        """Return the 8 bytes that name it in envelopes."""
        return self.epoch.epoch_id


class EpochBook:
    """Known epochs; the newest is the greatest (number, epoch id) whose admin is not revoked.

    `is_void` says whether a signer's key has been revoked: such epochs rank below all others.
    """

    def __init__(self, is_void: Callable[[bytes], bool]) -> None:
        self._is_void = is_void
        self._objects: dict[bytes, Epoch] = {}  # by secret hash
        self._secrets: dict[bytes, Secret] = {}

    def add(self, epoch: Epoch) -> tuple[Epoch, ...]:
        """Keep a verified epoch; return what had to go for it (itself, if it is no better)."""
        if epoch.secret_hash in self._objects:
            return (epoch,)
        self._objects[epoch.secret_hash] = epoch
        if len(self._objects) <= MAX_EPOCHS:
            return ()
        lowest = min(self._objects.values(), key=self._rank)
        self._drop(lowest)
        return (lowest,)

    def add_secret(self, secret: Secret) -> bool:
        """Keep the secret of an epoch whose object is known; return whether that was new."""
        digest = derive.epoch_hash(secret)
        if digest not in self._objects or digest in self._secrets:
            return False
        self._secrets[digest] = secret
        return True

    @property
    def newest(self) -> EpochKey | None:
        """Return the newest usable epoch."""
        keys = self.all()
        return keys[0] if keys else None

    def all(self) -> tuple[EpochKey, ...]:
        """Return all usable epochs, newest first."""
        usable = (epoch for digest, epoch in self._objects.items() if digest in self._secrets)
        ranked = sorted(usable, key=self._rank, reverse=True)
        return tuple(EpochKey(epoch, self._secrets[epoch.secret_hash]) for epoch in ranked)

    def accepted(self, *, unix_now: float) -> tuple[EpochKey, ...]:
        """Return the usable epochs on which everything is served, newest first."""
        return tuple(key for key in self.all() if not self.is_old(key.epoch_id, unix_now=unix_now))

    def get(self, epoch_id: bytes) -> EpochKey | None:
        """Return a usable epoch by its id, old or not."""
        return next((key for key in self.all() if key.epoch_id == epoch_id), None)

    def is_old(self, epoch_id: bytes, *, unix_now: float) -> bool:
        """Say whether a newer usable epoch is known and was made more than 24 h ago."""
        for key in self.all():
            if key.epoch_id == epoch_id:
                return False
            if key.epoch.at + ACCEPTED_S < unix_now:
                return True
        return True

    def objects(self) -> tuple[Epoch, ...]:
        """Return all known epochs, newest first, with or without secret."""
        return tuple(sorted(self._objects.values(), key=self._rank, reverse=True))

    def secrets(self) -> tuple[Secret, ...]:
        """Return the secrets, newest epoch first, for storage."""
        return tuple(key.secret for key in self.all())

    def expire(self, *, unix_now: float) -> tuple[Epoch, ...]:
        """Drop epochs older than 90 days but the newest; return those."""
        newest = self.newest
        gone = tuple(
            epoch
            for epoch in self._objects.values()
            if epoch.at + KEPT_S < unix_now and (newest is None or epoch is not newest.epoch)
        )
        for epoch in gone:
            self._drop(epoch)
        return gone

    def _rank(self, epoch: Epoch) -> tuple[bool, int, bytes]:
        return (not self._is_void(epoch.object.signer), epoch.number, epoch.epoch_id)

    def _drop(self, epoch: Epoch) -> None:
        del self._objects[epoch.secret_hash]
        self._secrets.pop(epoch.secret_hash, None)
