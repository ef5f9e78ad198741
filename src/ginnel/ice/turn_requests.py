"""The half of a TURN client that asks: requests, retransmission, credentials, the connection.

`turn.TurnClient` is the other half: the allocation, its peers and the data.

Source: RFC 8489 sections 6.2 (retransmission), 9.2 (long-term credentials); RFC 8656 section 5.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ginnel.base.chance import RandomBytes
from ginnel.base.core import TimerTable
from ginnel.base.types import Address, Transmit
from ginnel.ice import stun
from ginnel.ice.credentials import LongTermCredentials
from ginnel.ice.stun import Attribute, Message, MessageClass
from ginnel.ice.turn_events import TurnConfig, TurnDrop, TurnEvent, explain

RTO = 0.5  # s until a request is sent again, doubled each time (RFC 8489 section 6.2.1)
MAX_SENDS = 6  # at 0, 0.5, 1.5, 3.5, 7.5, 15.5 s
STREAM_TIMEOUT = 15.0  # s for an answer over TCP (RFC has 39.5: more than a person waits)
MAX_CHALLENGES = 3  # 401 or 438 in a row to one request; more is a server that refuses us

log = logging.getLogger(__name__)


class Timer(Enum):
    """The timers of a client."""

    RETRANSMIT = "retransmit"
    REFRESH = "refresh"
    BIND = "bind"
    RETRY = "retry"
    CONNECT = "connect"


@dataclass(eq=False, slots=True)
class Request:
    """One request until it is answered."""

    method: int
    attributes: tuple[tuple[int, bytes], ...]
    peer: Address | None
    data: bytes = b""
    key: bytes = b""
    is_sha256: bool = False
    next_at: float = 0.0
    sends: int = 0
    challenges: int = 0


class TurnAsker(ABC):
    """Owns the open requests and the credentials; what answers mean is for the subclass."""

    def __init__(self, config: TurnConfig, *, random_bytes: RandomBytes) -> None:
        self.config = config
        self.drops: dict[TurnDrop, int] = {}
        self._random_bytes = random_bytes
        self._credentials = credentials_of(config)
        self._requests: dict[bytes, Request] = {}
        self._timers: TimerTable[Timer] = TimerTable()
        self._out: deque[Transmit] = deque()
        self._events: deque[TurnEvent] = deque()

    @abstractmethod
    def _on_success(self, request: Request, message: Message, now: float) -> None: ...

    @abstractmethod
    def _on_failed(self, request: Request, code: int, reason: str, now: float) -> None: ...

    def _ask(
        self,
        method: int,
        attributes: Sequence[tuple[int, bytes]],
        now: float,
        peer: Address | None = None,
    ) -> None:
        request = Request(method, tuple(attributes), peer)
        self._send_request(request, now)

    def _send_request(self, request: Request, now: float, transaction_id: bytes = b"") -> None:
        """Send a request for the first time, or anew with the nonce of now."""
        transaction_id = transaction_id or self._random_bytes(stun.TRANSACTION_ID_SIZE)
        attributes = list(request.attributes)
        if request.peer is not None:
            value = stun.encode_address(request.peer, transaction_id)
            attributes.append((Attribute.XOR_PEER_ADDRESS, value))
        request.key = self._credentials.key
        request.is_sha256 = self._credentials.uses_sha256
        request.data = stun.encode_message(
            MessageClass.REQUEST,
            transaction_id,
            [*attributes, *self._credentials.attributes()],
            key=request.key or None,
            method=request.method,
            sha256=request.is_sha256,
        )
        wait = STREAM_TIMEOUT if self.config.transport.is_stream else RTO
        request.sends, request.next_at = 1, now + wait
        self._requests[transaction_id] = request
        self._transmit(request.data)
        self._rearm()

    def _retransmit(self, now: float) -> None:
        for transaction_id, request in list(self._requests.items()):
            if request.next_at > now or self._requests.get(transaction_id) is not request:
                continue
            if request.sends >= (1 if self.config.transport.is_stream else MAX_SENDS):
                del self._requests[transaction_id]
                self._on_failed(request, 0, "the relay does not answer", now)
                continue
            request.next_at = now + RTO * 2**request.sends
            request.sends += 1
            self._transmit(request.data)

    def _on_response(self, message: Message, now: float) -> None:
        request = self._requests.get(message.transaction_id)
        if request is None or request.method != message.method:
            self._drop(TurnDrop.FOREIGN)
            return
        is_success = message.message_class is MessageClass.SUCCESS
        code = None if is_success else message.error_code
        # Errors may come unsigned: the server may not know our key (RFC 8489 section 9.2.4).
        if is_success and not _is_signed(message, request):
            self._drop(TurnDrop.BAD_INTEGRITY)
            return
        del self._requests[message.transaction_id]
        if is_success:
            self._on_success(request, message, now)
        elif (
            code in (401, 438)
            and request.challenges < MAX_CHALLENGES
            and self._credentials.take_challenge(message)
        ):
            request.challenges += 1
            self._send_request(request, now)
        else:
            self._on_failed(request, code or 0, explain(code or 0), now)

    def _transmit(self, data: bytes) -> None:
        self._out.append(Transmit(data, self.config.server, self.config.source_ip))

    def _rearm(self) -> None:
        next_at = min((r.next_at for r in self._requests.values()), default=None)
        if next_at is None:
            self._timers.stop(Timer.RETRANSMIT)
        else:
            self._timers.set(Timer.RETRANSMIT, next_at)

    def _drop(self, reason: TurnDrop, detail: str = "") -> bool:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        log.debug("dropped a datagram: %s %s", reason.value, detail)
        return False


def credentials_of(config: TurnConfig) -> LongTermCredentials:
    """Return the credentials that a configuration holds."""
    return LongTermCredentials(
        config.username, config.password, realm=config.realm, nonce=config.nonce
    )


def _is_signed(message: Message, request: Request) -> bool:
    if not request.key:
        return False
    if request.is_sha256:
        return stun.check_integrity_sha256(message, request.key)
    return stun.check_integrity(message, request.key)
