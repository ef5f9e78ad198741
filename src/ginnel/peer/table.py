"""CORE: many connections on one socket: whose a datagram is, and which of them are due.

Nothing here asks all connections: an idle one costs only its own keepalives. Whoever does anything
to a connection calls `touch` afterwards, and tells with `note_sent` what it sends. Those whose turn
to connect has come (`turns`, which they share) are found due.

Invariant: between calls, the deadline of a table is the earliest of its connections' deadlines.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.stun import Message, MessageClass
from ginnel.peer.conn import ConnCore
from ginnel.peer.turns import Turns

MAX_ASKED = 16_384  # requests whose answers find their connection: 1000 peers with 16 pairs each
SLACK = 64  # outdated entries of the heap that are borne besides one for each connection

KeyT = TypeVar("KeyT", bound=Hashable)


class ConnTable(Generic[KeyT]):
    """Connections by a key of their owner's."""

    def __init__(self, turns: Turns | None = None) -> None:
        self._turns = turns or Turns()
        self._keys: dict[bytes, KeyT] = {}  # by the remote peer's WireGuard key
        self._conns: dict[KeyT, ConnCore] = {}
        self._deadlines: dict[KeyT, Deadline] = {}
        self.heap: list[tuple[float, int, KeyT]] = []  # with outdated entries, a bounded number
        self._count = 0  # of entries ever made: keys need not be orderable
        self._ufrags: dict[str, KeyT] = {}
        self._ufrags_of: dict[KeyT, tuple[str, ...]] = {}
        self._asked: dict[bytes, KeyT] = {}  # by transaction id, oldest first

    def put(self, key: KeyT, conn: ConnCore) -> None:
        """Take a connection, in the place of the one that had the key."""
        self._conns[key] = conn
        self._keys[conn.config.key] = key
        self.touch(key)

    def remove(self, key: KeyT) -> None:
        """Forget a connection; harmless if it isn't known."""
        conn = self._conns.pop(key, None)
        if conn is not None and self._keys.get(conn.config.key) == key:
            del self._keys[conn.config.key]
        self._deadlines.pop(key, None)
        for ufrag in self._ufrags_of.pop(key, ()):
            self._ufrags.pop(ufrag, None)

    def touch(self, key: KeyT) -> None:
        """Look at a connection to which something was done."""
        conn = self._conns.get(key)
        if conn is None:
            return
        ufrags = conn.ufrags
        if ufrags != self._ufrags_of.get(key, ()):
            for ufrag in self._ufrags_of.get(key, ()):
                self._ufrags.pop(ufrag, None)
            self._ufrags_of[key] = ufrags
            self._ufrags.update(dict.fromkeys(ufrags, key))
        deadline = conn.poll_deadline()
        if deadline is None:
            self._deadlines.pop(key, None)
        elif deadline != self._deadlines.get(key):
            self._deadlines[key] = deadline
            self._push(deadline.at, key)

    def note_sent(self, key: KeyT, transmit: Transmit) -> None:
        """Note what a connection sends, so that the answer to a request is found to be its."""
        asked = stun.request_id(transmit.data)
        if asked is None:
            return
        self._asked[asked] = key
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]

    def find(self, message: Message, source: Address) -> KeyT | None:
        """Return whose a STUN message on the shared port is, or None; it proves nothing."""
        if message.message_class is MessageClass.REQUEST:
            key = self._ufrags.get(message.local_ufrag)
        else:
            key = self._asked.get(message.transaction_id)
        conn = None if key is None else self._conns.get(key)
        return key if conn is not None and conn.owns(message, source) else None

    def take_due(self, now: float) -> list[KeyT]:
        """Return who is due, earliest first; each must be served and touched."""
        self._touch_called()
        due: list[KeyT] = []
        while self.heap and self.heap[0][0] <= now:
            at, _, key = heappop(self.heap)
            if self._is_current(at, key):
                del self._deadlines[key]
                due.append(key)
        return due

    def poll_deadline(self) -> Deadline | None:
        """Return the earliest deadline of all connections, or None."""
        self._touch_called()
        while self.heap and not self._is_current(self.heap[0][0], self.heap[0][2]):
            heappop(self.heap)
        return self._deadlines[self.heap[0][2]] if self.heap else None

    def _touch_called(self) -> None:
        """See those whose turn it is to connect since another gave back its place."""
        while (called := self._turns.poll_called()) is not None:
            if called in self._keys:
                self.touch(self._keys[called])

    def _is_current(self, at: float, key: KeyT) -> bool:
        deadline = self._deadlines.get(key)
        return deadline is not None and deadline.at == at

    def _push(self, at: float, key: KeyT) -> None:
        self._count += 1
        heappush(self.heap, (at, self._count, key))
        if len(self.heap) > 2 * len(self._deadlines) + SLACK:
            self.heap = [entry for entry in self.heap if self._is_current(entry[0], entry[2])]
            heapify(self.heap)
