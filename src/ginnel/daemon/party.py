"""What a mesh and a courier have in common, as a node sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ginnel.base.types import Address, Deadline
from ginnel.discv5.requests import Contact
from ginnel.mesh.rendezvous import Node, RdvCommand


class Party(Protocol):
    """What the mesh and a courier have in common."""

    def on_lookup_done(
        self, token: int, nodes: Sequence[Node], *, now: float, unix_now: float
    ) -> None:
        """Take the nodes that a lookup found."""
        ...

    def on_talk_answered(
        self, token: int, payload: bytes | None, *, now: float, unix_now: float
    ) -> None:
        """Take an answer, or that none came."""
        ...

    def on_pong(self, token: int, address: Address | None, *, now: float) -> None:
        """Take a PONG's address, or that none came."""
        ...

    def on_push(
        self, talk_token: int, contact: Contact, payload: bytes, *, now: float, unix_now: float
    ) -> None:
        """Take a message that a storing node pushed."""
        ...

    def handle_timeout(self, *, now: float, unix_now: float) -> None:
        """Do what is due."""
        ...

    def poll_command(self) -> RdvCommand | None:
        """Return the next command for the DHT."""
        ...

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        ...
