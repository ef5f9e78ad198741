"""CORE: keeps one UDP port mapped at the gateway, by PCP or, where it speaks that, by NAT-PMP.

Sans-IO with the five verbs; the shell owns a socket for the gateway and UPnP, which is tried where
this says `Unserved`. PCP is asked first; NAT-PMP's question for the outer address goes out a moment
later, or at once when the gateway says that it knows no PCP. Nothing is mapped twice.

Invariant: answers count only from the gateway's address, for our port, and (PCP) with our nonce.

Source: RFC 6886 sections 3.1, 3.3, 3.6, 3.7; RFC 6887 sections 8.1.1, 8.5, 11.2, 11.2.1, 15.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.net.portmap_wire import (
    NONCE_SIZE,
    PCP_SUCCESS,
    PMP_SUCCESS,
    PcpAnnounced,
    PcpMapping,
    PmpAddress,
    PmpMapping,
    Unsupported,
    decode_response,
    describe_result,
    encode_pcp_map,
    encode_pmp_address,
    encode_pmp_map,
)

LEASE_S = 7200  # seconds asked for (RFC 6886 section 3.3 recommends two hours)
MIN_RENEWAL_S = 4.0  # seconds between two renewals (RFC 6887 section 11.2.1)
PCP_FIRST_S = 3.0  # seconds until a request is sent again, then doubled (RFC 6887 8.1.1, IRT)
PCP_LAST_S = 1024.0  # seconds, at most (MRT)
PMP_FIRST_S = 0.25  # seconds until a request is sent again, then doubled (RFC 6886 3.1)
PMP_SENDS = 6  # 16 s in all; RFC 6886 goes on to 64 s, but here UPnP is tried meanwhile
PMP_AFTER_S = 0.25  # seconds that PCP is ahead
GIVE_UP_S = 8.0  # seconds without any answer until the gateway is said to serve neither
GIVE_UP_SOON_S = 3.0  # seconds, where there is another way; a gateway answers within some ms
AGAIN_S = 600.0  # seconds until it is asked anew after that, or after a refusal
MAX_LIFETIME = 7 * 86_400  # seconds believed of an answer


class Protocol(Enum):
    """Who maps."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


class PortMapDrop(Enum):
    """Why a datagram was not acted on."""

    SOURCE = "not from the gateway"
    MALFORMED = "malformed"
    NOT_OURS = "for another port or nonce"


@dataclass(frozen=True, slots=True)
class Mapped:
    """The port is held at this outer address until it is said otherwise."""

    protocol: Protocol
    address: Address
    lifetime: int  # seconds


@dataclass(frozen=True, slots=True)
class Unserved:
    """There is no mapping, and why; it is asked for again by itself."""

    reason: str


PortMapEvent = Mapped | Unserved


@dataclass(frozen=True, slots=True)
class PortMapConfig:
    """What is to be mapped, and where to ask."""

    gateway: Address
    client_ip: str  # where requests are sent from
    port: int  # of ours, to be reached from outside
    lease: int = LEASE_S
    protocols: tuple[Protocol, ...] = (Protocol.PCP, Protocol.NAT_PMP)  # that may be used
    gives_up_soon: bool = False  # there is another way


class _Timer(Enum):
    PCP = 1
    PMP = 2
    GIVE_UP = 3
    RENEW = 4
    EXPIRE = 5
    AGAIN = 6


class PortMapCore:
    """See the module's text. After `close` it sends what removes the mapping, and no more."""

    def __init__(
        self, config: PortMapConfig, *, random_bytes: RandomBytes, rng: Rng, now: float
    ) -> None:
        self.drops: dict[PortMapDrop, int] = {}
        self.served: dict[Protocol, None] = {}  # protocols that the gateway answered in
        self._config = config
        self._nonce = random_bytes(NONCE_SIZE)
        self._rng = rng
        self._protocol: Protocol | None = None  # that is used, once one was answered
        self._mapped: Mapped | None = None
        self._pmp_ip = ""  # the outer address, once NAT-PMP told it
        self._sends = 0  # of NAT-PMP's current request
        self._interval = 0.0  # seconds until PCP's is sent again
        self._epoch: tuple[int, float] | None = None  # the gateway's clock, and when it showed so
        self._give_up_at = 0.0
        self._is_closed = False
        self._out: deque[Transmit] = deque()
        self._events: deque[PortMapEvent] = deque()
        self._timers: TimerTable[_Timer] = TimerTable()
        self._begin(now)

    @property
    def mapped(self) -> Mapped | None:
        """Return what is held now."""
        return self._mapped

    def close(self, *, now: float) -> None:
        """Remove the mapping; the request comes out of `poll_transmit`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._timers = TimerTable()
        if self._protocol is Protocol.PCP and self._mapped is not None:
            self._send(self._pcp_request(0))
        elif self._mapped is not None:
            self._send(encode_pmp_map(self._config.port, 0, 0))
        self._mapped = None

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take a datagram of the gateway's socket."""
        if self._is_closed:
            return
        if source != self._config.gateway:
            self._drop(PortMapDrop.SOURCE)
            return
        match decode_response(data):
            case Unsupported():
                self._on_unsupported(now)
            case PcpMapping() as answer:
                self._on_pcp(answer, now)
            case PmpAddress() as answer:
                self._on_pmp_address(answer, now)
            case PmpMapping() as answer:
                self._on_pmp_mapping(answer, now)
            case PcpAnnounced() | None:
                self._drop(PortMapDrop.MALFORMED)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        for timer in self._timers.expire(now):
            match timer:
                case _Timer.PCP:
                    self._send_pcp(now)
                case _Timer.PMP:
                    self._send_pmp(now)
                case _Timer.GIVE_UP if self.served and now < self._give_up_at:
                    self._timers.set(_Timer.GIVE_UP, self._give_up_at)
                case _Timer.GIVE_UP:
                    self._fail("the router answers neither PCP nor NAT-PMP", now)
                case _Timer.RENEW:
                    self._renew(now)
                case _Timer.EXPIRE:
                    self._fail("the mapping ended: the router renews it no more", now)
                    self._begin(now)
                case _Timer.AGAIN:
                    self._begin(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram for the gateway; call until None."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> PortMapEvent | None:
        """Return the next event; call until None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self._timers.deadline()

    # --- asking --------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._protocol, self._pmp_ip, self._epoch = None, "", None
        self._interval, self._sends = 0.0, 0
        self._timers = TimerTable()
        wait = GIVE_UP_SOON_S if self._config.gives_up_soon else GIVE_UP_S
        self._give_up_at = now + GIVE_UP_S
        self._timers.set(_Timer.GIVE_UP, now + wait)
        protocols = self._config.protocols
        if Protocol.NAT_PMP in protocols:
            is_first = Protocol.PCP not in protocols
            self._timers.set(_Timer.PMP, now if is_first else now + PMP_AFTER_S)
        if Protocol.PCP in protocols:
            self._send_pcp(now)

    def _send_pcp(self, now: float) -> None:
        """Send the request and arm its repetition (RFC 6887 section 8.1.1)."""
        self._send(self._pcp_request(self._config.lease))
        jitter = 1 + self._rng.uniform(-0.1, 0.1)
        self._interval = min(2 * self._interval or PCP_FIRST_S, PCP_LAST_S) * jitter
        self._timers.set(_Timer.PCP, now + self._interval)

    def _send_pmp(self, now: float) -> None:
        """Send the step that is due, again and again for a while."""
        if self._sends >= PMP_SENDS:
            ends_at = self._timers.get(_Timer.EXPIRE)
            if ends_at is not None:  # a renewal: once more at half of what is left
                self._timers.set(_Timer.RENEW, now + max(MIN_RENEWAL_S, (ends_at - now) / 2))
            return
        self._send(
            encode_pmp_map(self._config.port, self._wished_port(), self._config.lease)
            if self._pmp_ip
            else encode_pmp_address()
        )
        self._timers.set(_Timer.PMP, now + PMP_FIRST_S * 2**self._sends)
        self._sends += 1

    def _renew(self, now: float) -> None:
        self._interval, self._sends = 0.0, 0
        if self._protocol is Protocol.PCP:
            self._send_pcp(now)
        else:
            self._pmp_ip = ""  # it may have changed
            self._send_pmp(now)

    def _pcp_request(self, lifetime: int) -> bytes:
        mapped = self._mapped
        ip = "0.0.0.0" if mapped is None else mapped.address.ip
        config = self._config
        return encode_pcp_map(
            config.client_ip, self._nonce, config.port, (ip, self._wished_port()), lifetime
        )

    def _wished_port(self) -> int:
        return self._config.port if self._mapped is None else self._mapped.address.port

    # --- answers -------------------------------------------------------------------------------

    def _on_unsupported(self, now: float) -> None:
        """The gateway knows no PCP: ask by NAT-PMP at once."""
        if self._protocol is None and Protocol.NAT_PMP in self._config.protocols:
            self._timers.stop(_Timer.PCP)
            self._timers.set(_Timer.PMP, now)

    def _on_pcp(self, answer: PcpMapping, now: float) -> None:
        is_ours = answer.nonce == self._nonce and answer.internal_port == self._config.port
        if not is_ours or self._protocol is Protocol.NAT_PMP:
            self._drop(PortMapDrop.NOT_OURS)
            return
        self.served[Protocol.PCP] = None
        if answer.result != PCP_SUCCESS:
            self._fail(f"PCP: {describe_result(answer.result, is_pcp=True)}", now)
            return
        has_restarted = self._has_restarted(answer.epoch, now, is_pcp=True)
        self._timers.stop(_Timer.PMP)
        address = Address(answer.external_ip, answer.external_port)
        self._hold(Mapped(Protocol.PCP, address, answer.lifetime), now)
        if has_restarted:
            self._renew(now)

    def _on_pmp_address(self, answer: PmpAddress, now: float) -> None:
        if self._protocol is Protocol.PCP or Protocol.NAT_PMP not in self._config.protocols:
            self._drop(PortMapDrop.NOT_OURS)
            return
        self.served[Protocol.NAT_PMP] = None
        if answer.result != PMP_SUCCESS:
            self._fail(f"NAT-PMP: {describe_result(answer.result, is_pcp=False)}", now)
            return
        self._protocol = Protocol.NAT_PMP
        self._timers.stop(_Timer.PCP)
        if not self._pmp_ip:
            self._pmp_ip, self._sends = answer.ip, 0
            self._send_pmp(now)

    def _on_pmp_mapping(self, answer: PmpMapping, now: float) -> None:
        if self._protocol is not Protocol.NAT_PMP or not self._pmp_ip:
            self._drop(PortMapDrop.NOT_OURS)
            return
        if answer.result != PMP_SUCCESS:
            self._fail(f"NAT-PMP: {describe_result(answer.result, is_pcp=False)}", now)
            return
        if answer.internal_port != self._config.port:
            self._drop(PortMapDrop.NOT_OURS)
            return
        has_restarted = self._has_restarted(answer.epoch, now, is_pcp=False)
        address = Address(self._pmp_ip, answer.external_port)
        self._hold(Mapped(Protocol.NAT_PMP, address, answer.lifetime), now)
        if has_restarted:
            self._renew(now)

    def _hold(self, mapped: Mapped, now: float) -> None:
        if not mapped.lifetime or not mapped.address.port:
            self._fail(f"{mapped.protocol.value}: the router gave a mapping without life", now)
            return
        self._protocol = mapped.protocol
        lifetime = min(mapped.lifetime, MAX_LIFETIME)
        for timer in (_Timer.PCP, _Timer.PMP, _Timer.GIVE_UP, _Timer.AGAIN):
            self._timers.stop(timer)
        self._timers.set(_Timer.RENEW, now + max(MIN_RENEWAL_S, lifetime / 2))
        self._timers.set(_Timer.EXPIRE, now + lifetime)
        before, self._mapped = self._mapped, mapped
        if before is None or before.address != mapped.address:
            self._events.append(mapped)

    def _has_restarted(self, epoch: int, now: float, *, is_pcp: bool) -> bool:
        """Say whether the gateway has lost its mappings since its last answer.

        Source: RFC 6886 section 3.6; RFC 6887 section 8.5.
        """
        before, self._epoch = self._epoch, (epoch, now)
        if before is None:
            return False
        ours, theirs = now - before[1], epoch - before[0]
        if not is_pcp:
            return theirs < ours * 7 / 8 - 2
        return theirs < -1 or ours + 2 < theirs - theirs / 16 or theirs + 2 < ours - ours / 16

    def _fail(self, reason: str, now: float) -> None:
        self._mapped = None
        self._timers = TimerTable()
        self._timers.set(_Timer.AGAIN, now + AGAIN_S)
        self._events.append(Unserved(reason))

    def _send(self, data: bytes) -> None:
        self._out.append(Transmit(data, self._config.gateway))

    def _drop(self, reason: PortMapDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
