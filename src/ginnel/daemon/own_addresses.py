"""What is known of this machine's own addresses, and the candidates that follow from it.

Collects what others found: interfaces, the DHT's observers, a port mapping, the settings; and asks
the STUN servers of the settings itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.discv5.events import ReflexiveChanged
from ginnel.ice import stun
from ginnel.ice.candidate import Candidate
from ginnel.ice.gather import gather_candidates
from ginnel.ice.stun_client import StunClient

STUN_REFRESH_S = 25.0  # seconds between two questions to a server; NATs forget after 30 s or more


class OwnAddresses:
    """The addresses of the shared port; see the module."""

    def __init__(self) -> None:
        self.host_ips: tuple[str, ...] = ()  # the default route's first
        self.port = 0
        self.outer_ips: tuple[str, ...] = ()  # of a NAT that keeps our port (one to one)
        self.mapped: Address | None = None  # the outer address that a port mapping holds
        self.restricted = False  # only addresses and ports that we wrote to get in, as observed
        self.reflexive: dict[bool, ReflexiveChanged] = {}  # by whether it is IPv6
        self._stun: StunClient | None = None
        self._servers: list[Address] = []

    def add_stun_servers(
        self, servers: Sequence[Address], *, random_bytes: RandomBytes, rng: Rng, now: float
    ) -> None:
        """Ask these too how they see us."""
        if self._stun is None:
            self._stun = StunClient(random_bytes=random_bytes, rng=rng, refresh=STUN_REFRESH_S)
        self._servers += [server for server in servers if server not in self._servers]
        self._ask(now)

    def set_host(self, ips: Sequence[str], port: int, *, now: float) -> bool:
        """Take this machine's addresses; return whether there were others before."""
        changed = bool(self.host_ips) and tuple(ips) != self.host_ips
        self.host_ips, self.port = tuple(ips), port
        self._ask(now)
        return changed

    @property
    def symmetric(self) -> bool:
        """Say whether our NAT shows each observer another port, as far as that matters."""
        if self.mapped is not None:
            return False
        seen = self._seen()
        bases = [base for _, base in seen]
        return len(set(bases)) < len(bases) or any(e.symmetric for e in self.reflexive.values())

    def candidates(self, at_relays: Sequence[Candidate]) -> list[Candidate]:
        """Return host and server-reflexive candidates; what relays show is not ours to offer."""
        outside = [Address(ip, self.port) for ip in self.outer_ips]
        outside += [] if self.mapped is None else [self.mapped]
        views = [event.address for event in self.reflexive.values()]
        views += [address for address, _ in self._seen()]
        taken = {candidate.address for candidate in at_relays}
        for address in views:
            if address is not None and address not in outside and address not in taken:
                outside.append(address)
        return gather_candidates(self.host_ips, self.port, outside)

    # What a core has to do for the STUN servers

    def handle_datagram(self, data: bytes, source: Address, *, now: float) -> bool:
        """Take a STUN datagram if it is a server's answer; return whether it was."""
        if self._stun is None:
            return False
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            return False
        if not self._stun.owns(message, source):
            return False
        self._stun.handle_message(message, source, now=now)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        if self._stun is not None:
            self._stun.handle_timeout(now=now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send on the shared port."""
        return self._stun.poll_transmit() if self._stun is not None else None

    def take_change(self) -> bool:
        """Say once whether a server's view has changed."""
        changed = False
        while self._stun is not None and self._stun.poll_event() is not None:
            changed = True
        return changed

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self._stun.poll_deadline() if self._stun is not None else None

    def _seen(self) -> tuple[tuple[Address, Address], ...]:
        return self._stun.answers if self._stun is not None else ()

    def _ask(self, now: float) -> None:
        if self._stun is None or not self.port:
            return
        first: dict[bool, Address] = {}  # reflexive addresses are taken to be theirs
        for ip in self.host_ips:
            first.setdefault(":" in ip, Address(ip, self.port))
        self._stun.ask(self._servers, list(first.values()), now=now)
