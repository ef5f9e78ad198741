"""What we answer with: NODES packets, and TALKREQs that wait for their answer from above."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, NodeId
from ginnel.discv5.errors import MessageTooLarge
from ginnel.discv5.messages import (
    MAX_RECORDS_PER_MESSAGE,
    Message,
    Nodes,
    TalkRequest,
    TalkResponse,
    encode_message,
)
from ginnel.discv5.packet import MAX_MESSAGE_SIZE
from ginnel.discv5.session import Session

# bytes for records in one NODES: besides them type, list headers, request id and total
MAX_RECORD_BYTES = MAX_MESSAGE_SIZE - 1 - 3 - 9 - 1 - 3
MAX_DISTANCE = 256  # log2; a FINDNODE with a greater one gets an empty answer
REMEMBERED_TALKS = 256  # answered TALKREQs kept, so that one sent again is not acted on again


def pack_nodes(
    request_id: bytes, records: Sequence[bytes], limit: int = MAX_RECORDS_PER_MESSAGE
) -> list[Nodes]:
    """Return the NODES packets for these records, at least one.

    In each are as many as fit, at most `limit`.
    """
    limit = min(limit, MAX_RECORDS_PER_MESSAGE)
    groups: list[list[bytes]] = [[]]
    size = 0
    for record in records:
        full = size + len(record) > MAX_RECORD_BYTES or len(groups[-1]) >= limit
        if full and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(record)
        size += len(record)
    return [Nodes(request_id, len(groups), tuple(group)) for group in groups]


def check_distances(distances: Sequence[int]) -> tuple[int, ...]:
    """Return the distances of a FINDNODE of ours, each once.

    Raises:
        UsageError: one is no log2 distance, 0 to 256.
    """
    for distance in distances:
        if not 0 <= distance <= MAX_DISTANCE:
            raise UsageError(f"{distance} is no log2 distance, which are 0 to {MAX_DISTANCE}")
    return tuple(dict.fromkeys(distances))


def check_message_size(message: Message) -> None:
    """Refuse a message that does not fit into one packet inside a session.

    Raises:
        MessageTooLarge: too large.
    """
    size = len(encode_message(message))
    if size > MAX_MESSAGE_SIZE:
        raise MessageTooLarge(
            f"a message of {size} bytes; at most {MAX_MESSAGE_SIZE} fit in a packet"
        )


@dataclass(slots=True, eq=False)
class Talk:
    """A TALKREQ from another node, waiting for our answer or answered lately."""

    session: Session
    source: Address
    request: TalkRequest
    expires_at: float
    answer: TalkResponse | None = None


class Talks:
    """TALKREQs that came: open ones by token, and those that might come again.

    Args:
        limit: open talks.
        lifetime: seconds in which an answer makes sense to the asker.
    """

    def __init__(self, limit: int, lifetime: float) -> None:
        self._limit = limit
        self._lifetime = lifetime
        self._open: dict[int, Talk] = {}
        self._answered: deque[Talk] = deque()
        self._known: dict[tuple[NodeId, TalkRequest], Talk] = {}  # all of both

    def find(self, node_id: NodeId, request: TalkRequest, now: float) -> Talk | None:
        """Return the same request of the same node if it is open or was answered lately."""
        talk = self._known.get((node_id, request))
        return talk if talk is not None and now < talk.expires_at else None

    def open(
        self, token: int, session: Session, source: Address, request: TalkRequest, now: float
    ) -> bool:
        """Keep a new talk until it is answered; False if too many are open."""
        while self._open:
            oldest = next(iter(self._open))
            if now < self._open[oldest].expires_at:
                break
            self._forget(self._open.pop(oldest))
        if len(self._open) >= self._limit:
            return False
        talk = Talk(session, source, request, now + self._lifetime)
        self._open[token] = talk
        self._known[(session.node_id, request)] = talk
        return True

    def answer(self, token: int, payload: bytes, now: float) -> Talk | None:
        """Close a talk with its answer; None if it is closed or too old.

        Raises:
            MessageTooLarge: the answer is too large.
        """
        talk = self._open.get(token)
        if talk is None:
            return None
        response = TalkResponse(talk.request.request_id, payload)
        check_message_size(response)
        del self._open[token]
        talk.answer = response
        self._answered.append(talk)
        if len(self._answered) > REMEMBERED_TALKS:
            self._forget(self._answered.popleft())
        return talk if now < talk.expires_at else None

    def refuse(self, token: int) -> bool:
        """Close a talk without answer, as if it had never come; False if it is closed."""
        talk = self._open.pop(token, None)
        if talk is not None:
            self._forget(talk)
        return talk is not None

    def _forget(self, talk: Talk) -> None:
        key = (talk.session.node_id, talk.request)
        if self._known.get(key) is talk:  # else the same request came anew after its time
            del self._known[key]
