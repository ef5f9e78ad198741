"""How others see us, and what follows for our record.

Votes come with the PONGs that we asked for (`endpoint.py` counts them). The majority is compared
with the record as soon as enough observers have voted, and every `majority_interval` from then on:
with `auto_update` the record follows it, without it a difference is warned of. An address that was
configured is never overwritten, and one that changes with each observer has no majority.

Source: seed 001, `ipMajorityLoop`.
"""

from __future__ import annotations

import logging
from collections import deque
from enum import Enum, auto

from ginnel.base.addresses import is_public
from ginnel.base.core import TimerTable
from ginnel.base.errors import UsageError
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, Deadline
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.endpoint import EndpointVotes
from ginnel.discv5.events import (
    AddressChanged,
    AddressDiffers,
    DiscoveryEvent,
    ReflexiveChanged,
)
from ginnel.discv5.exchange import Exchange
from ginnel.discv5.identity import LocalRecord
from ginnel.discv5.metrics import Metrics
from ginnel.discv5.requests import Contact, Purpose

MAX_OBSERVERS = 512  # observers remembered as asked
VOTE_PING_GAP = 10.0  # seconds between PINGs to one observer for its view of our address

log = logging.getLogger(__name__)


class _Timer(Enum):
    VOTES = auto()
    MAJORITY_IPV4 = auto()
    MAJORITY_IPV6 = auto()


_MAJORITY = {False: _Timer.MAJORITY_IPV4, True: _Timer.MAJORITY_IPV6}


class AddressWatch:
    """Votes on our addresses, IPv4 and IPv6 apart."""

    def __init__(
        self,
        config: DiscoveryConfig,
        exchange: Exchange,
        local: LocalRecord,
        events: deque[DiscoveryEvent],
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._exchange = exchange
        self._local = local
        self._events = events
        self._metrics = metrics
        self._votes = {v6: EndpointVotes(config.vote_lifetime) for v6 in (False, True)}
        self._asked: BoundedLru[str, float] = BoundedLru(MAX_OBSERVERS)
        self._warned: dict[bool, Address] = {}
        self._timers: TimerTable[_Timer] = TimerTable()

    def start(self) -> None:
        """Warn where nobody will be able to reach us."""
        if self._config.client_mode or any(self._local.endpoint(v6) for v6 in (False, True)):
            return
        if self._config.auto_update:
            log.info("no external address in the record yet: it waits for what others see")
        else:
            log.warning("no external address in the record: other nodes can't find this one")

    def doubt(self, now: float) -> None:
        """Our address may have changed: older views give way to a newer one that differs."""
        self._exchange.forget_local_ips()
        for votes in self._votes.values():
            votes.doubt(now)

    def ask(self, contact: Contact, now: float) -> None:
        """PING an observer for its view of our address while too few have told."""
        votes = self._votes[contact.address.is_ipv6]
        if votes.view.observers >= self._config.wanted_observers:
            return
        asked_at = self._asked.get(contact.address.ip)
        if asked_at is not None and now < asked_at + VOTE_PING_GAP:
            return
        if not votes.has_voted(contact.address, now):
            self._asked.put(contact.address.ip, now)
            self._exchange.submit(contact, self._exchange.new_ping(), Purpose.REVALIDATE, now)

    def on_pong(self, observer: Address, seen: Address, now: float) -> None:
        """Take an observer's view of us."""
        ipv6 = observer.is_ipv6
        if self._votes[ipv6].vote(observer, seen, now):
            self._tell(ipv6)
            if self._timers.get(_MAJORITY[ipv6]) is None and self._majority(ipv6) is not None:
                self._timers.set(_MAJORITY[ipv6], now + self._config.majority_interval)
                self._apply(ipv6)
        self._arm()

    def handle_timeout(self, now: float) -> None:
        """Drop old votes; count the others."""
        for timer in self._timers.expire(now):
            if timer is _Timer.VOTES:
                for ipv6, votes in self._votes.items():
                    if votes.expire(now):
                        self._tell(ipv6)
                self._arm()
            else:
                self._timers.set(timer, now + self._config.majority_interval)
                self._apply(timer is _Timer.MAJORITY_IPV6)

    def deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self._timers.deadline()

    def _majority(self, ipv6: bool) -> Address | None:
        """Return the address that enough observers agree on, or None."""
        view = self._votes[ipv6].view
        if view.address is None or not view.has_majority:
            return None
        needed = self._config.majority_votes if is_public(view.address.ip) else 1
        return view.address if view.observers >= needed else None

    def _apply(self, ipv6: bool) -> None:
        address = self._majority(ipv6)
        published = self._local.endpoint(ipv6)
        if address is None or address == published or self._config.client_mode:
            return
        may_follow = self._config.auto_update and not self._local.is_configured(ipv6)
        if may_follow and self._publish(address, ipv6):
            self._metrics.enr_auto_update += 1
            self._events.append(AddressChanged(address, published))
            log.info("the record was updated to the address that other nodes see")
        elif self._warned.get(ipv6) != address:
            self._warned[ipv6] = address
            self._events.append(AddressDiffers(address, published))
            log.warning("other nodes see another address than the record has")

    def _publish(self, address: Address, ipv6: bool) -> bool:
        try:
            return self._local.set_endpoint(address, ipv6, learned=True)
        except UsageError:
            log.warning("the record has no room for our address")
            return False

    def _tell(self, ipv6: bool) -> None:
        view = self._votes[ipv6].view
        self._events.append(ReflexiveChanged(view.address, view.symmetric, view.observers, ipv6))

    def _arm(self) -> None:
        ends = [at for votes in self._votes.values() if (at := votes.next_at()) is not None]
        if ends:
            self._timers.set(_Timer.VOTES, min(ends))
        else:
            self._timers.stop(_Timer.VOTES)
