"""A network that seems to let no UDP through: the DHT goes through a TURN server over TCP or TLS.

What is sent there is sent directly too: so it is noticed when UDP passes again.

Source: seed 000 (relays over TCP); FACTS, "Kinds of NAT".
"""

from __future__ import annotations

from ginnel.base.types import Transmit
from ginnel.discv5.protocol import DiscoveryCore
from ginnel.mesh.events import Notice, NoticeKind
from ginnel.mesh.relays import Relays

BLOCKED_AFTER = 5.0  # s from a datagram of the DHT without any to us; answers come within 1 s
TELL_AFTER = 20.0  # s until a person is told; a network that just came up answers before
LEAST_UNANSWERED = 4  # datagrams sent meanwhile: one node that is off is no blocked network


class BlockedUdp:
    """Remembers since when what the DHT sends gets no answer."""

    def __init__(self) -> None:
        self._has_heard = True
        self._sent_before = 0  # datagrams until one came last
        self._unanswered = 0
        self._silent_since: float | None = None
        self._told = ""

    def heard(self) -> None:
        """A datagram of the DHT came from the Internet."""
        self._has_heard = True

    def asked(self, sent: int, *, now: float) -> None:
        """Take the number of datagrams that the DHT has sent in all."""
        if self._has_heard:
            self._has_heard = False
            self._sent_before, self._silent_since = sent, None
        self._unanswered = sent - self._sent_before
        if self._unanswered and self._silent_since is None:
            self._silent_since = now

    def is_blocked(self, now: float, after: float = BLOCKED_AFTER) -> bool:
        """Say whether none came for so long that UDP is taken to be blocked."""
        return (
            self._silent_since is not None
            and self._unanswered >= LEAST_UNANSWERED
            and now - self._silent_since >= after
        )

    def act(
        self, discovery: DiscoveryCore, relays: Relays | None, *, now: float
    ) -> tuple[list[Transmit], list[Notice]]:
        """Send what the DHT has to send through a server, if nothing comes by UDP.

        Returns the same, to be sent directly too, and what a person should know now.
        """
        found: list[Transmit] = []
        if relays is None:
            return found, []
        self.asked(discovery.metrics.packets_sent, now=now)
        while self.is_blocked(now) and (transmit := discovery.poll_transmit()) is not None:
            found.append(transmit)
            relayed = relays.stream_address(ipv6=transmit.destination.is_ipv6)
            if relayed is not None:
                copy = Transmit(transmit.data, transmit.destination, relayed_from=relayed)
                relays.send(copy, now=now)
        notice = self.notice(relays, now=now)
        return found, [] if notice is None else [notice]

    def notice(self, relays: Relays, *, now: float) -> Notice | None:
        """Return what a person should know, when that changed; an empty text ends it."""
        text = self._text(relays) if self.is_blocked(now, TELL_AFTER) else ""
        if text == self._told:
            return None
        self._told = text
        return Notice(NoticeKind.UDP, text)

    def _text(self, relays: Relays) -> str:
        text = "nothing comes by UDP from the Internet (blocked, or no network)"
        if relays.stream_address(ipv6=False) is not None:
            return text + ": all goes through the TURN server"
        if why := relays.why_no_address():
            return f"{text}, and the TURN server does not help: {why}"
        return text + ": a TURN server over TCP or TLS is needed (setting `turn`)"
