"""Alarms: what an administrator should look at, each raised once.

What calls for one is `membership.py`'s business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from ginnel.base.types import MemberId

MAX_ALARMS = 256  # alarms not yet fetched, and alarms remembered so that each is raised once


class AlarmKind(Enum):
    """What an administrator should look at."""

    NETWORK_FORK = "two network objects with one sequence number"
    KEY_CONFLICT = "two members with one key"
    ADDRESS_CONFLICT = "two members with one address"
    NAME_CONFLICT = "two members with one name"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that no honest admin does; raised once."""

    kind: AlarmKind
    member_id: MemberId | None  # the loser, who is refused or renamed
    name: str
    detail: str


class AlarmBook:
    """Alarms that wait to be fetched, and which were raised before."""

    def __init__(self) -> None:
        self._waiting: deque[Alarm] = deque(maxlen=MAX_ALARMS)
        self._raised: dict[tuple[AlarmKind, bytes], None] = {}

    def add(self, alarm: Alarm, digest: bytes) -> None:
        """Raise an alarm about the object with this hash, unless that was done."""
        if (alarm.kind, digest) in self._raised:
            return
        if len(self._raised) >= MAX_ALARMS:
            del self._raised[next(iter(self._raised))]
        self._raised[alarm.kind, digest] = None
        self._waiting.append(alarm)

    def poll(self) -> Alarm | None:
        """Return the next alarm; call until None."""
        return self._waiting.popleft() if self._waiting else None
