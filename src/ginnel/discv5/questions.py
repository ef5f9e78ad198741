"""What one can ask of other nodes, and wait for: requests and searches.

The middle of the facade (`aio.py`), which waits for the events that these end in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from ginnel.base.types import NodeId
from ginnel.discv5.enr import Enr
from ginnel.discv5.errors import NoAddressError
from ginnel.discv5.events import (
    LookupDone,
    NodesReceived,
    PongReceived,
    PopulateDone,
    QueryDone,
    Resolved,
    Revalidated,
    TalkAnswered,
)
from ginnel.discv5.requests import Contact
from ginnel.discv5.view import NodeView

EventT = TypeVar("EventT")


class NodeQuestions(NodeView):
    """Requests and searches of a node.

    All raise RequestRefused where too much is under way already, or the node is closed meanwhile.
    """

    @abstractmethod
    def _now(self) -> float:
        """Return the core's clock."""

    @abstractmethod
    async def _wait(self, kind: type[EventT], number: int) -> EventT:
        """Return the event that ends what has this number, or raise what it failed with."""

    # requests

    async def ping(self, enr: Enr) -> PongReceived:
        """Ask whether the node is there.

        Raises:
            RequestTimeout: no answer.
            RequestRefused: a wrong answer, too many requests under way, or closed meanwhile.
            NoAddressError: its record has no address we can send to.
        """
        number = self.core.ping(self._contact(enr), now=self._now())
        return await self._wait(PongReceived, number)

    async def find_node(self, enr: Enr, distances: Sequence[int]) -> tuple[Enr, ...]:
        """Ask the node for records at these log2 distances from it; errors as `ping`."""
        number = self.core.find_node(self._contact(enr), distances, now=self._now())
        return (await self._wait(NodesReceived, number)).records

    async def talk_request(self, enr: Enr, protocol: bytes, payload: bytes) -> bytes:
        """Send a request of another protocol; empty if the node does not know it.

        Errors as `ping`, and MessageTooLarge if it does not fit into a packet.
        """
        contact = self._contact(enr)
        number = self.core.talk_request(contact, protocol, payload, now=self._now())
        return (await self._wait(TalkAnswered, number)).payload

    async def revalidate(self, enr: Enr) -> bool:
        """PING a node of the table and fetch its record if there is a newer one.

        Return whether it answered: if so it is marked as seen, if not it is replaced.

        Raises:
            RequestRefused: too many requests under way, or closed meanwhile.
            NoAddressError: its record has no address we can send to.
        """
        self._contact(enr)
        number = self.core.revalidate(enr, now=self._now())
        return (await self._wait(Revalidated, number)).is_alive

    # searches

    async def populate(self) -> int:
        """Look up ourselves, then a random target; return how many nodes the table has then."""
        return (await self._wait(PopulateDone, self.core.populate(self._now()))).nodes

    async def lookup(self, target: NodeId, *, k: int | None = None) -> tuple[Enr, ...]:
        """Find the (16) nodes closest to the target that answer, closest first."""
        number = self.core.lookup(target, now=self._now(), count=k)
        return (await self._wait(LookupDone, number)).nodes

    async def query(self, target: NodeId, *, k: int | None = None) -> tuple[Enr, ...]:
        """Ask the (16) known nodes closest to the target; return all nodes found, alive or not."""
        number = self.core.query(target, now=self._now(), count=k)
        return (await self._wait(QueryDone, number)).nodes

    async def query_random(self, enr_field: tuple[str, bytes] | None = None) -> tuple[Enr, ...]:
        """Query for a random target; return the nodes found, only those with the field."""
        found = (await self._wait(QueryDone, self.core.query_random(now=self._now()))).nodes
        return tuple(enr for enr in found if enr_field is None or enr.contains(*enr_field))

    async def resolve(self, node_id: NodeId) -> Enr | None:
        """Return the newest record of a node: from itself, else by lookup; None if unknown."""
        return (await self._wait(Resolved, self.core.resolve(node_id, now=self._now()))).record

    def _contact(self, enr: Enr) -> Contact:
        contact = self.core.contact_for(enr)
        if contact is None:
            version = "of our IP version " if enr.addresses else ""
            raise NoAddressError(f"the record has no address {version}to send to")
        return contact
