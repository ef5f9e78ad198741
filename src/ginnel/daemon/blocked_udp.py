"""A network that seems to let no UDP through: the DHT goes through a TURN server over TCP or TLS.

What is sent there is sent directly too: so it is noticed when UDP passes again.

Source: seed 000 (relays over TCP); FACTS, "Kinds of NAT".
"""

from __future__ import annotations

from ginnel.base.types import Transmit
from ginnel.discv5.protocol import DiscoveryCore
from ginnel.mesh.events import Notice, NoticeKind
from ginnel.mesh.mesh import Mesh
from ginnel.mesh.relays import Relays

BLOCKED_AFTER = 5.0  # s without any datagram of the DHT; its requests are answered within 1 s
TELL_AFTER = 20.0  # s until a person is told; a network that just came up answers before


class BlockedUdp:
    """Remembers when a datagram came last."""

    def __init__(self) -> None:
        self._heard_at = float("-inf")
        self._told = ""

    def heard(self, now: float) -> None:
        """A datagram of the DHT came from the Internet, or we begin to listen."""
        self._heard_at = now

    def is_blocked(self, now: float) -> bool:
        """Say whether none came for so long that UDP is taken to be blocked."""
        return now - self._heard_at >= BLOCKED_AFTER

    def act(
        self, discovery: DiscoveryCore, mesh: Mesh | None, *, now: float
    ) -> tuple[list[Transmit], list[Notice]]:
        """Send what the DHT has to send through a server, if nothing comes by UDP.

        Returns the same, to be sent directly too, and what a person should know now.
        """
        found: list[Transmit] = []
        if mesh is None:
            return found, []
        while self.is_blocked(now) and (transmit := discovery.poll_transmit()) is not None:
            found.append(transmit)
            relayed = mesh.relays.stream_address(ipv6=transmit.destination.is_ipv6)
            if relayed is not None:
                copy = Transmit(transmit.data, transmit.destination, relayed_from=relayed)
                mesh.send_relayed(copy, now=now)
        notice = self.notice(mesh.relays, now=now)
        return found, [] if notice is None else [notice]

    def notice(self, relays: Relays, *, now: float) -> Notice | None:
        """Return what a person should know, when that changed; an empty text ends it."""
        text = self._text(relays) if now - self._heard_at >= TELL_AFTER else ""
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
