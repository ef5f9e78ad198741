"""What the relaying part is told and tells; values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ginnel.base.types import Address, MemberId


@dataclass(frozen=True, slots=True)
class RelayPath:
    """A direct path to a member that may relay.

    `is_choice`: the one before works, too. `is_controlling`: on this path, of the two ends.
    """

    member_id: MemberId
    address: Address
    source_ip: str | None
    is_choice: bool = False
    is_controlling: bool = False


@dataclass(frozen=True, slots=True)
class Arrived:
    """A datagram came for our address at a relay."""

    relayed: Address
    peer: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A relay carries nothing from our address there to this peer."""

    relayed: Address
    peer: Address
    reason: str


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """`candidates()` changed."""


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Seal this payload of kind relay for a member."""

    member_id: MemberId
    payload: bytes


RelaysEvent: TypeAlias = Arrived | Refused | AddressesChanged | SendMessage
