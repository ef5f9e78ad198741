"""CORE: what a tunnel must do on a CoderVPN stream.

It holds the full state of workspaces and agents, so that it can answer GetPeerUpdate alone and send
each change. Changes wait until the stream is free and then go as one update: a manager that doesn't
read costs freshness, never memory. Start and Stop are decided by the program around it.

Source: seed 002; the order of the shipped protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from ginnel.base.core import earliest
from ginnel.base.errors import UsageError
from ginnel.base.types import Deadline
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.header import SUPPORTED_VERSIONS, Dialect, Role, Version
from ginnel.codervpn.messages import LogRecord, Start, decode_start, encode_log
from ginnel.codervpn.speaker import (
    REQUEST_TIMEOUT,
    Drop,
    Negotiated,
    NoticeReceived,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
    Speaker,
    StreamClosed,
)

MAX_PEERS = 4096  # workspaces and agents each; a mesh is smaller
FULL_UPDATE_INTERVAL = 5.0  # seconds; all agents again, in the shipped dialect
WAKE_DEBOUNCE = 5.0  # seconds; wake-ups within are answered but not acted on


@dataclass(frozen=True, slots=True)
class StartRequested:
    """The manager wants the tunnel to start; end with `finish_start`."""

    start: Start


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The manager wants the tunnel to stop; end with `finish_stop`."""


@dataclass(frozen=True, slots=True)
class WakeRequested:
    """The machine woke up or changed networks; already answered."""


@dataclass(frozen=True, slots=True)
class SettingsAnswered:
    """The answer to `request_settings`: `error` None means applied."""

    request: int
    error: str | None = field(default=None)


TunnelEvent: TypeAlias = (
    Negotiated | StartRequested | StopRequested | WakeRequested | SettingsAnswered | StreamClosed
)


class TunnelCore:
    """The tunnel's end of the stream: five verbs (bytes in place of datagrams) and commands."""

    def __init__(self, *, now: float, versions: Iterable[Version] = SUPPORTED_VERSIONS) -> None:
        self.speaker = Speaker(Role.TUNNEL, now=now, versions=tuple(versions))
        self.is_running = False
        self.double_starts = 0
        self._starts: list[int] = []  # requests that wait for `finish_start`
        self._stops: list[int] = []
        self._full_requests: deque[int] = deque()  # bounded by the speaker
        self._events: deque[TunnelEvent] = deque()
        self._workspaces: dict[bytes, pb.Workspace] = {}
        self._agents: dict[bytes, pb.Agent] = {}
        self._changed_workspaces: dict[bytes, pb.Workspace | None] = {}  # None: deleted
        self._changed_agents: dict[bytes, pb.Agent | None] = {}
        self._told_workspaces: set[bytes] = set()  # that the manager knows: they need a delete
        self._told_agents: set[bytes] = set()
        self._now = now  # of the last call that told it
        self._woke_at: float | None = None
        self._full_at: float | None = None

    # The five verbs

    def handle_bytes(self, data: bytes, *, now: float) -> None:
        """Take bytes of the stream."""
        self.speaker.handle_bytes(data, now=now)
        self._work(now)

    def handle_eof(self, *, now: float) -> None:
        """Take the end of the stream."""
        self.speaker.handle_eof(now=now)
        self._work(now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        self.speaker.handle_timeout(now=now)
        if self._full_at is not None and self._full_at <= now:
            self._full_at = now + FULL_UPDATE_INTERVAL
            self._changed_agents |= self._agents
        self._work(now)

    def poll_transmit(self) -> bytes | None:
        """Return the next bytes to write; call only when there is room."""
        self._flush_changes()
        return self.speaker.poll_transmit()

    def poll_event(self) -> TunnelEvent | None:
        """Return the next event, or None."""
        self._work(self._now)  # a request that failed at once, a stream closed from here
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        full = None if self._full_at is None else Deadline(self._full_at, "full update")
        return earliest(self.speaker.poll_deadline(), full)

    # Commands

    def finish_start(self, error: str | None) -> None:
        """Answer the manager's Start; `error` None means running. After a Stop it is too late."""
        if not self._starts:
            return
        self.is_running = error is None
        for request in self._starts:
            self._answer_start(request, error)
        self._starts.clear()

    def finish_stop(self, error: str | None = None) -> None:
        """Answer what is open, Stop last, and close this side for writing: its last frame."""
        self.finish_start("stopped")
        self.is_running = False
        while self._full_requests and self.speaker.has_room:
            self._answer_full_request()
        self._full_requests.clear()
        for request in self._stops:
            response = pb.StopResponse(success=error is None, error_message=error or "")
            self.speaker.respond(request, pb.TunnelMessage(stop=response))
        self._stops.clear()
        self._full_at = None
        self.speaker.end_writing()

    def request_settings(
        self, settings: pb.NetworkSettingsRequest, *, now: float, timeout: float = REQUEST_TIMEOUT
    ) -> int:
        """Ask the manager to set the network up; ends in one SettingsAnswered."""
        message = pb.TunnelMessage(network_settings=settings)
        return self.speaker.request(message, now=now, timeout=timeout)

    def write_log(self, record: LogRecord) -> bool:
        """Send a log record; False if it was dropped because the manager doesn't read."""
        return self.speaker.notify(pb.TunnelMessage(log=encode_log(record)))

    def upsert(
        self, workspaces: Iterable[pb.Workspace] = (), agents: Iterable[pb.Agent] = ()
    ) -> None:
        """Add or change workspaces and agents.

        Raises:
            UsageError: it would be more than MAX_PEERS of a kind; nothing is changed.
        """
        new_workspaces = {workspace.id: workspace for workspace in workspaces}
        new_agents = {agent.id: agent for agent in agents}
        added = len(new_workspaces.keys() - self._workspaces.keys())
        if len(self._workspaces) + added > MAX_PEERS:
            raise UsageError(f"more than {MAX_PEERS} workspaces on one stream")
        added = len(new_agents.keys() - self._agents.keys())
        if len(self._agents) + added > MAX_PEERS:
            raise UsageError(f"more than {MAX_PEERS} agents on one stream")
        self._workspaces |= new_workspaces
        self._changed_workspaces |= new_workspaces
        self._agents |= new_agents
        self._changed_agents |= new_agents

    def delete(
        self, *, workspace_ids: Iterable[bytes] = (), agent_ids: Iterable[bytes] = ()
    ) -> None:
        """Remove workspaces and agents; unknown ids are left alone."""
        for workspace_id in workspace_ids:
            if self._workspaces.pop(workspace_id, None) is not None:
                self._changed_workspaces.pop(workspace_id, None)
                if workspace_id in self._told_workspaces:
                    self._changed_workspaces[workspace_id] = None
        for agent_id in agent_ids:
            if self._agents.pop(agent_id, None) is not None:
                self._changed_agents.pop(agent_id, None)
                if agent_id in self._told_agents:
                    self._changed_agents[agent_id] = None

    # Inside

    def _work(self, now: float) -> None:
        self._now = now
        while (event := self.speaker.poll_event()) is not None:
            if isinstance(event, RequestReceived):
                self._on_request(event, now)
            elif isinstance(event, ResponseReceived):
                self._on_settings(event)
            elif isinstance(event, RequestFailed):
                self._events.append(SettingsAnswered(event.request, event.reason.value))
            elif isinstance(event, NoticeReceived):
                self.speaker.count_drop(Drop.UNEXPECTED)
            else:
                if isinstance(event, Negotiated) and event.dialect is Dialect.SHIPPED:
                    self._full_at = now + FULL_UPDATE_INTERVAL
                elif isinstance(event, StreamClosed):
                    self._full_at = None
                self._events.append(event)

    def _on_settings(self, event: ResponseReceived) -> None:
        assert isinstance(event.message, pb.ManagerMessage)
        answer = event.message.network_settings
        error = None if answer.success else answer.error_message or "refused without a reason"
        self._events.append(SettingsAnswered(event.request, error))

    def _on_request(self, event: RequestReceived, now: float) -> None:
        assert isinstance(event.message, pb.ManagerMessage)
        if event.kind == "start":
            self._on_start(event.msg_id, decode_start(event.message.start))
        elif event.kind == "stop":
            self._stops.append(event.msg_id)
            if len(self._stops) == 1:
                self._events.append(StopRequested())
        elif event.kind == "get_peer_update":
            self._full_requests.append(event.msg_id)  # answered when the stream is free
        elif event.kind == "wake":
            response = pb.WakeResponse(success=True)
            self.speaker.respond(event.msg_id, pb.TunnelMessage(wake=response))
            if self._woke_at is None or now - self._woke_at >= WAKE_DEBOUNCE:
                self._woke_at = now
                self._events.append(WakeRequested())
        else:
            self.speaker.forget_request(event.msg_id)
            self.speaker.count_drop(Drop.UNEXPECTED)

    def _answer_start(self, msg_id: int, error: str | None) -> None:
        response = pb.StartResponse(success=error is None, error_message=error or "")
        self.speaker.respond(msg_id, pb.TunnelMessage(start=response))

    def _on_start(self, msg_id: int, start: Start) -> None:
        if self._stops:  # it ends: nothing starts any more on this stream
            self._answer_start(msg_id, "stopped")
            return
        if self.is_running or self._starts:
            self.double_starts += 1
            if self._starts:
                self._starts.append(msg_id)
                return
            self._starts.append(msg_id)
            self.finish_start(None)
            return
        self._starts.append(msg_id)
        if not start.url:
            self.finish_start("Start has no URL")
        elif not start.token.reveal():
            self.finish_start("Start has no token")
        else:
            self._events.append(StartRequested(start))

    def _answer_full_request(self) -> None:
        update = pb.PeerUpdate(
            upserted_workspaces=self._workspaces.values(),
            upserted_agents=self._agents.values(),
        )
        self._told_workspaces.update(self._workspaces)
        self._told_agents.update(self._agents)
        request = self._full_requests.popleft()
        self.speaker.respond(request, pb.TunnelMessage(peer_update=update))

    def _flush_changes(self) -> None:
        if not self.speaker.is_idle:
            return
        if self._full_requests:
            self._answer_full_request()
            return
        if not (self._changed_agents or self._changed_workspaces):
            return
        update = pb.PeerUpdate()
        for workspace_id, workspace in self._changed_workspaces.items():
            if workspace is None:
                update.deleted_workspaces.add(id=workspace_id)
            else:
                update.upserted_workspaces.append(workspace)
        for agent_id, agent in self._changed_agents.items():
            if agent is None:
                update.deleted_agents.add(id=agent_id)
            else:
                update.upserted_agents.append(agent)
        self._changed_workspaces.clear()
        self._changed_agents.clear()
        self._told_workspaces = set(self._workspaces)
        self._told_agents = set(self._agents)
        self.speaker.notify(pb.TunnelMessage(peer_update=update))
