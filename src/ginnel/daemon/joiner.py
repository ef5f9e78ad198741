"""The parent's side of `ginnel join`: drives a `JoinAttempt` over a tunnel in join mode.

It holds the invite's secret and the new keys; the tunnel gets points and whole envelopes. What was
granted is stored whole at the end, or nothing is; then the same request may be made again.

Source: docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ginnel.base.config import Settings
from ginnel.base.errors import RemoteProtocolError, SystemFailure
from ginnel.base.types import NodeId
from ginnel.daemon.channel import (
    Channel,
    ChannelMessage,
    Delivered,
    DeliverTo,
    Envelope,
    Nodes,
    Stage,
    split_points,
)
from ginnel.mesh.derive import Point
from ginnel.mesh.join import NodeKeys
from ginnel.mesh.join_attempt import FINAL_STATES, Granted, JoinAttempt, JoinState
from ginnel.mesh.rendezvous import NO_NODE
from ginnel.storage.network_files import Folders, store_joined

ASK_INTERVAL = 5.0  # seconds after a request was taken until it is sent again
RETRY_INTERVAL = 1.0  # seconds after a request found no way until the next try
LOST_TIMEOUT = 15.0  # seconds after which a request of unknown fate is sent again
PENDING_INTERVAL = 15.0  # seconds between requests while a person decides
ANSWER_TIMEOUT = 120.0  # seconds for the first answer; a slow DHT takes 20
APPROVAL_TIMEOUT = 3600.0  # seconds for a person; the same command may be given again

MAX_STAGES = 32  # stages that are shown; the tunnel names them and is not trusted
NO_NODE_HELP = (
    "no node answers: is UDP blocked here? Then a TURN server over TCP or TLS is needed (setting "
    "`turn`, in a file named by --settings). Otherwise one machine of the network that can be "
    "reached from outside, or `ginnel node` on any server, is enough; name it by --node. On the "
    "LAN of a member none is needed"
)

ASKED = "asked, waiting for an answer"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JoinTimes:
    """How long a join takes at most and how often it asks."""

    ask_interval: float = ASK_INTERVAL
    retry_interval: float = RETRY_INTERVAL
    pending_interval: float = PENDING_INTERVAL
    answer_timeout: float = ANSWER_TIMEOUT
    approval_timeout: float = APPROVAL_TIMEOUT
    unix: Callable[[], float] = time.time


class JoinRefused(SystemFailure):
    """The admin's side said no; asking again is of no use."""


class Joiner:
    """One join: `run` ends with what was granted.

    Args:
        channel: to the tunnel in join mode.
        attempt: the request.
        records: nodes to start from (the invite's, and hints), as raw records.
        on_stage: called with each new stage, a line for people.
        times: limits.
    """

    def __init__(
        self,
        channel: Channel,
        attempt: JoinAttempt,
        records: Sequence[bytes],
        on_stage: Callable[[str], None],
        times: JoinTimes | None = None,
    ) -> None:
        self._channel = channel
        self._attempt = attempt
        self._records = tuple(records)
        self._on_stage = on_stage
        self._times = times or JoinTimes()
        self._stages: dict[str, None] = {}  # shown, in order
        self._reply_points: tuple[Point, ...] = ()
        self._ask_at: dict[NodeId, float] = {}  # by location, on the loop's clock

    async def run(self) -> Granted:
        """Ask until the request is answered.

        Raises:
            JoinRefused: refused, used, or the answer does not verify; the text says why.
            SystemFailure: no answer in time, or the tunnel ended; the text says what to do.
        """
        try:
            async with asyncio.timeout(self._times.answer_timeout) as limit:
                return await self._run(limit)
        except TimeoutError:
            raise SystemFailure(self._why_late()) from None

    async def _run(self, limit: asyncio.Timeout) -> Granted:
        if self._records:
            await self._channel.send(Nodes(self._records))
        asking = asyncio.ensure_future(self._keep_asking())
        try:
            while self._attempt.state not in FINAL_STATES:
                message = await self._receive()
                before = self._attempt.state
                self._on_message(message)
                if before is JoinState.ASKING and self._attempt.state is JoinState.PENDING:
                    loop = asyncio.get_running_loop()
                    limit.reschedule(loop.time() + self._times.approval_timeout)
                if asking.done():
                    asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        if self._attempt.granted is None:
            reason = self._attempt.reason or "no reason was given"
            raise JoinRefused(f"the join was {_OUTCOMES[self._attempt.state]}: {reason}")
        self._tell("granted")
        return self._attempt.granted

    async def _receive(self) -> ChannelMessage:
        while True:
            try:
                return await self._channel.receive()
            except RemoteProtocolError as error:
                log.debug("the tunnel sent nonsense: %s", error)

    def _on_message(self, message: ChannelMessage) -> None:
        if isinstance(message, Envelope):
            self._attempt.handle_envelope(message.envelope, unix_now=self._times.unix())
            if self._attempt.state is JoinState.PENDING:
                self._tell(f"waiting for approval, code {self._attempt.code}")
        elif isinstance(message, Stage) and self._attempt.state is JoinState.ASKING:
            if len(self._stages) < MAX_STAGES:
                self._tell(NO_NODE_HELP if NO_NODE in message.text else message.text)
        elif isinstance(message, Delivered):
            self._on_delivered(message)

    def _on_delivered(self, message: Delivered) -> None:
        interval = self._times.ask_interval if message.is_ok else self._times.retry_interval
        if self._attempt.state is JoinState.PENDING:
            interval = self._times.pending_interval
        else:
            self._tell(ASKED if message.is_ok else "searching for the admin")
        self._ask_at[message.location] = asyncio.get_running_loop().time() + interval

    async def _keep_asking(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            unix_now = self._times.unix()
            points = self._attempt.reply_points(unix_now=unix_now)
            if points != self._reply_points:
                self._reply_points = points
                for message in split_points(points):
                    await self._channel.send(message)
            for point in self._attempt.admin_points(unix_now=unix_now):
                if self._ask_at.get(point.location, 0.0) <= loop.time():
                    self._ask_at[point.location] = loop.time() + LOST_TIMEOUT
                    await self._channel.send(DeliverTo(point, self._attempt.envelope(point)))
            await asyncio.sleep(min(self._times.ask_interval, self._times.retry_interval) / 2)

    def _tell(self, stage: str) -> None:
        """Show a stage once: while nothing answers, the same ones come again and again."""
        if stage not in self._stages:
            self._stages[stage] = None
            self._on_stage(stage)

    def _why_late(self) -> str:
        if self._attempt.state is JoinState.PENDING:
            return "nobody approved in time: give the same command again when somebody can"
        if self._attempt.reason:
            return f"no answer that verifies: {self._attempt.reason}"
        if NO_NODE_HELP in self._stages and ASKED not in self._stages:
            return NO_NODE_HELP
        last = next(reversed(self._stages), "starting")
        return (
            f"no answer (last stage: {last}). Is the inviting machine up, is "
            "UDP open here, and is this machine's clock right? Name a node by --node if none is "
            "found"
        )


_OUTCOMES = {
    JoinState.REFUSED: "refused",
    JoinState.USED: "refused",
    JoinState.FAILED: "granted but does not verify",
}


async def join_and_store(
    joiner: Joiner,
    keys: NodeKeys,
    settings: Settings,
    folders_of: Callable[[str], Folders],
    unix: Callable[[], float] = time.time,
) -> Granted:
    """Run the join and store its outcome, all or nothing.

    Args:
        joiner: the join.
        keys: the keys that the attempt was made with.
        settings: this machine's settings for the network.
        folders_of: the folders of a network of this name (known only by the answer).
        unix: the wall clock.
    """
    granted = await joiner.run()
    folders = folders_of(granted.network_name)
    store_joined(folders, keys, granted, settings, unix_now=int(unix()))
    return granted
