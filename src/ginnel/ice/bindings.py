"""What one allocation at a relay may exchange, with whom, and in which channels.

Source: RFC 8656 sections 9 (permissions) and 12 (channels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ginnel.base.types import Address
from ginnel.ice.channels import FIRST_CHANNEL, LAST_CHANNEL

MAX_PERMISSIONS = 64  # of one allocation
PERMISSION_LIFE = 300.0  # s (section 9)
CHANNEL_LIFE = 600.0  # s (section 12)


@dataclass(eq=False, slots=True)
class Bindings:
    """Permissions and channels; each has an end, in monotonic seconds."""

    _permissions: dict[Address, float] = field(default_factory=dict)
    _channels: dict[int, tuple[Address, float]] = field(default_factory=dict)
    _numbers: dict[Address, int] = field(default_factory=dict)

    def permitted_until(self, peer: Address) -> float:
        """Return when the permission for a peer ends; it may be over."""
        return self._permissions.get(peer, 0.0)

    def peers(self) -> Iterator[Address]:
        """Yield the peers that have channels, also ended ones."""
        yield from self._numbers

    def knows(self, number: int) -> bool:
        """Say whether a channel of this number was bound."""
        return number in self._channels

    def peer_of(self, number: int, now: float) -> Address | None:
        """Return whose channel this is."""
        peer, ends_at = self._channels.get(number, (None, 0.0))
        return peer if ends_at > now else None

    def channel_to(self, peer: Address) -> tuple[int, float] | None:
        """Return a peer's channel and when it ends; it may be over."""
        number = self._numbers.get(peer)
        return None if number is None else (number, self._channels[number][1])

    def way_to(
        self, target: Address, bindings: Bindings, own: Address
    ) -> tuple[int, int, float] | None:
        """Return our channel, the target's (with its bindings) to us, and until when data may pass.

        None if one of them has no channel; what is returned may be over.
        """
        number, onward = self._numbers.get(target), bindings._numbers.get(own)
        if number is None or onward is None:
            return None
        ends = (self._channels[number][1], bindings._channels[onward][1])
        return number, onward, min(*ends, bindings.permitted_until(own))

    def permit(self, peers: Sequence[Address], now: float) -> bool:
        """Begin permissions or prolong them; False if there would be too many."""
        permissions = {p: end for p, end in self._permissions.items() if end > now}
        permissions.update((peer, now + PERMISSION_LIFE) for peer in peers)
        if len(permissions) > MAX_PERMISSIONS:
            return False
        self._permissions = permissions
        return True

    def may_bind(self, number: int, peer: Address, now: float) -> bool:
        """Say whether neither number nor peer is taken otherwise (section 12.2)."""
        for old, (whose, ends_at) in list(self._channels.items()):
            if ends_at <= now:
                del self._channels[old], self._numbers[whose]
        whose = self._channels.get(number, (peer, 0.0))[0]
        is_channel = FIRST_CHANNEL <= number <= LAST_CHANNEL
        return is_channel and whose == peer and self._numbers.get(peer, number) == number

    def bind(self, number: int, peer: Address, now: float) -> None:
        """Bind a channel that may be, or prolong it."""
        self._channels[number] = (peer, now + CHANNEL_LIFE)
        self._numbers[peer] = number
