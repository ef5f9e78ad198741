"""What a machine learns of its NAT from STUN servers: addresses, ports that change, filtering.

A sans-IO helper of `connect_end.py`; in the product discv5's nodes are the observers.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun

RETRY_S = 0.5  # seconds until a Binding request is sent again
CHANGE_REQUEST, CHANGE_PORT = 0x0003, b"\0\0\0\x02"  # RFC 5780 section 7.2
ANSWER_SLACK = 0.02  # seconds that the answer from another port may be behind the first one


class Observers:
    """Asks STUN servers what our address looks like, and one to answer from another port."""

    def __init__(self, servers: Sequence[Address]) -> None:
        self.seen: dict[Address, Address] = {}
        self.lets_in = False  # an answer came from a port that we never sent to
        self._asked: dict[bytes, tuple[Address, bool]] = {}
        self._servers = servers
        self.judge_at: float | None = None  # when the answer from another port would have come
        self.is_judged = False
        self.began_at = self.next_at = 0.0
        self.out: deque[Transmit] = deque()

    @property
    def is_done(self) -> bool:
        """Say whether all servers have answered and the last answer would have come."""
        return len(self.seen) == len(self._servers) and self.is_judged

    @property
    def restricted(self) -> bool:
        """Say whether our NAT lets in only ports that we wrote to."""
        return self.is_judged and not self.lets_in

    def start(self, now: float) -> None:
        """Ask all; again those that have not answered."""
        self.began_at = self.began_at or now
        self.next_at = now + RETRY_S
        for server in self._servers:
            if server not in self.seen:
                self._ask(server, is_other=False)
        if self._servers and self._servers[0] not in self.seen:
            self._ask(self._servers[0], is_other=True)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        if self.judge_at is not None and now >= self.judge_at:
            self.is_judged = True
        if len(self.seen) < len(self._servers) and now >= self.next_at > 0:
            self.start(now)

    def poll_deadline(self) -> Deadline | None:
        """Return when something is due."""
        times = []
        if len(self.seen) < len(self._servers) and self.next_at:
            times.append(self.next_at)
        if self.judge_at is not None and not self.is_judged:
            times.append(self.judge_at)
        return Deadline(min(times), "observers") if times else None

    def owns(self, message: stun.Message) -> bool:
        """Say whether a message answers us."""
        return message.transaction_id in self._asked

    def handle(self, message: stun.Message, now: float) -> None:
        """Take an answer."""
        server, is_other = self._asked.pop(message.transaction_id)
        if is_other:
            self.lets_in = message.message_class is stun.MessageClass.SUCCESS
        elif message.mapped_address is not None:
            self.seen[server] = message.mapped_address
            if server == self._servers[0] and self.judge_at is None:
                self.judge_at = now + (now - self.began_at) + ANSWER_SLACK
                self._ask(server, is_other=True)  # one may be lost

    def _ask(self, server: Address, *, is_other: bool) -> None:
        transaction_id = os.urandom(stun.TRANSACTION_ID_SIZE)
        self._asked[transaction_id] = (server, is_other)
        attributes = [(CHANGE_REQUEST, CHANGE_PORT)] if is_other else []
        data = stun.encode_message(stun.MessageClass.REQUEST, transaction_id, attributes)
        self.out.append(Transmit(data, server))
