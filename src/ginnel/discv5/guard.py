"""Defence: how much one source may ask of us, and bans for violations of the protocol.

Everything here holds for public addresses only: loopback and private networks are exempt, so that
a test network on one machine is never throttled. A source is an IP and, `subnet_factor` times as
generous, its /24 or /48. Only what was sent inside a session counts as a violation: the sender has
proven its address, so nobody can have somebody else banned.
"""

from __future__ import annotations

from ginnel.base.addresses import is_public, subnet_key
from ginnel.base.limits import BoundedLru, RateLimiter
from ginnel.base.types import NodeId
from ginnel.discv5.config import DiscoveryConfig

MAX_SOURCES = 4096  # source IPs, and as many subnets, with a rate of their own
MAX_OFFENDERS = 1024  # nodes and IPs whose violations or bans are remembered


class _Limit:
    """A rate for each IP and a greater one for each subnet."""

    def __init__(self, rate: float, burst: float, factor: float) -> None:
        self._by_ip: RateLimiter[str] = RateLimiter(rate, burst, limit=MAX_SOURCES)
        self._by_subnet: RateLimiter[str] = RateLimiter(
            rate * factor, burst * factor, limit=MAX_SOURCES
        )

    def take(self, ip: str, now: float) -> bool:
        return self._by_ip.take(ip, now=now) and self._by_subnet.take(subnet_key(ip), now=now)


class Guard:
    """Rates and bans of one node."""

    def __init__(self, config: DiscoveryConfig) -> None:
        factor = config.subnet_factor
        self._config = config
        self._packets = _Limit(config.packet_rate, config.packet_burst, factor)
        self._challenges = _Limit(config.whoareyou_rate, config.whoareyou_burst, factor)
        self._messages = _Limit(config.request_rate, config.request_burst, factor)
        self._strikes: BoundedLru[NodeId | str, tuple[int, float]] = BoundedLru(MAX_OFFENDERS)
        self._bans: BoundedLru[NodeId | str, float] = BoundedLru(MAX_OFFENDERS)
        self._has_banned = False  # anybody, ever

    def may_send(self, ip: str, now: float) -> bool:
        """Say whether a packet of this source is looked at."""
        return not is_public(ip) or self._packets.take(ip, now)

    def admits_all(self, ip: str) -> bool:
        """Say whether nothing here restricts this source; quicker than to ask one by one."""
        return not self._has_banned and not is_public(ip)

    def may_be_challenged(self, ip: str, now: float) -> bool:
        """Say whether this source gets a WHOAREYOU."""
        return not is_public(ip) or self._challenges.take(ip, now)

    def may_ask(self, ip: str, now: float) -> bool:
        """Say whether a request of this source is served."""
        return not is_public(ip) or self._messages.take(ip, now)

    def is_banned(self, offender: NodeId | str, now: float) -> bool:
        """Say whether a node id or an IP is banned."""
        if not self._has_banned:
            return False
        until = self._bans.peek(offender)
        if until is None:
            return False
        if now >= until:
            self._bans.pop(offender)
            return False
        return True

    def on_violation(self, node_id: NodeId, ip: str, now: float) -> bool:
        """Note that a node broke the protocol inside a session; return whether it is now banned.

        Many may share an IP behind a NAT, so one node's faults never suffice to ban it: a banned
        node adds none. An IP that shows ever new nodes with faults is banned at last.
        """
        if not is_public(ip) or self._config.ban_strikes <= 0:
            return False
        strikes = self._config.ban_strikes
        return self._strike(node_id, strikes, now) | self._strike(
            ip, strikes * self._config.ban_ip_factor, now
        )

    def _strike(self, offender: NodeId | str, limit: int, now: float) -> bool:
        count, since = self._strikes.get(offender) or (0, now)
        if now - since >= self._config.ban_time:
            count, since = 0, now
        if count + 1 < limit:
            self._strikes.put(offender, (count + 1, since))
            return False
        self._strikes.pop(offender)
        self._bans.put(offender, now + self._config.ban_time)
        self._has_banned = True
        return True
