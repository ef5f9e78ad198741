"""CORE: what a manager must do on a CoderVPN stream.

It asks (Start, Stop, Wake, GetPeerUpdate), keeps the last known state of workspaces and agents, and
passes on what the tunnel wants: settings to apply and records to log. The tunnel is not trusted:
counts are bounded, and what it may set is decided by the program around this core.

Source: seed 002; the order of the shipped protocol.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ginnel.base.types import Deadline
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.bounds import (
    agent_fault,
    log_faults,
    own_agent,
    own_workspace,
    workspace_fault,
)
from ginnel.codervpn.header import SUPPORTED_VERSIONS, Dialect, Role, Version
from ginnel.codervpn.messages import LogRecord, Start, decode_log, encode_start
from ginnel.codervpn.speaker import (
    HANDSHAKE_TIMEOUT,
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

MAX_KNOWN_PEERS = 4096  # workspaces and agents each that a tunnel can make us remember
MAX_SETTINGS_SIZE = 1024 * 1024  # bytes of a request; what can be allowed takes a few thousand
MAX_FAULTS_TOLD = 4  # of one message

log = logging.getLogger(__name__)


class Ask(Enum):
    """What a manager asks of a tunnel."""

    START = "start"
    STOP = "stop"
    WAKE = "wake"
    PEERS = "get_peer_update"


@dataclass(frozen=True, slots=True)
class Answered:
    """The end of `start`, `stop`, `wake` or `get_peers`; `error` None means success."""

    ask: Ask
    request: int
    error: str | None


@dataclass(frozen=True, slots=True)
class SettingsRequested:
    """The tunnel wants network settings; end with `finish_settings(request, error)`."""

    request: int
    settings: pb.NetworkSettingsRequest = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeersChanged:
    """The known workspaces or agents changed; read them from the core."""


@dataclass(frozen=True, slots=True)
class LogReceived:
    """The tunnel logged a line; its text is not to be trusted."""

    record: LogRecord = field(repr=False)


ManagerEvent: TypeAlias = (
    Negotiated | Answered | SettingsRequested | PeersChanged | LogReceived | StreamClosed
)


class ManagerCore:
    """The manager's end of the stream: five verbs (bytes in place of datagrams) and commands."""

    def __init__(
        self,
        *,
        now: float,
        dialect: Dialect = Dialect.SEED,
        versions: Iterable[Version] = SUPPORTED_VERSIONS,
        silence_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        self.speaker = Speaker(
            Role.MANAGER,
            now=now,
            dialect=dialect,
            versions=tuple(versions),
            silence_timeout=silence_timeout,
        )
        self.workspaces: dict[bytes, pb.Workspace] = {}
        self.agents: dict[bytes, pb.Agent] = {}
        self.told_at: dict[bytes, float] = {}  # of each agent: when the tunnel last told of it
        self._now = now  # of the last call that told it
        self._asked: dict[int, Ask] = {}
        self._events: deque[ManagerEvent] = deque()

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
        self._work(now)

    def poll_transmit(self) -> bytes | None:
        """Return the next bytes to write; call only when there is room."""
        return self.speaker.poll_transmit()

    def poll_event(self) -> ManagerEvent | None:
        """Return the next event, or None."""
        self._work(self._now)
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self.speaker.poll_deadline()

    # Commands

    def start(self, start: Start, *, now: float, timeout: float = REQUEST_TIMEOUT) -> int:
        """Ask the tunnel to start; ends in one Answered."""
        return self._ask(Ask.START, pb.ManagerMessage(start=encode_start(start)), now, timeout)

    def stop(self, *, now: float, timeout: float = REQUEST_TIMEOUT) -> int:
        """Ask the tunnel to stop; ends in one Answered."""
        return self._ask(Ask.STOP, pb.ManagerMessage(stop=pb.StopRequest()), now, timeout)

    def wake(self, *, now: float, timeout: float = REQUEST_TIMEOUT) -> int:
        """Tell the tunnel of a resume from sleep or a change of networks."""
        return self._ask(Ask.WAKE, pb.ManagerMessage(wake=pb.WakeRequest()), now, timeout)

    def get_peers(self, *, now: float, timeout: float = REQUEST_TIMEOUT) -> int:
        """Ask for the full set of peers; the answer replaces what is known."""
        message = pb.ManagerMessage(get_peer_update=pb.GetPeerUpdate())
        return self._ask(Ask.PEERS, message, now, timeout)

    def finish_settings(self, request: int, error: str | None) -> None:
        """Answer a SettingsRequested; `error` None means applied."""
        response = pb.NetworkSettingsResponse(success=error is None, error_message=error or "")
        self.speaker.respond(request, pb.ManagerMessage(network_settings=response))

    # Inside

    def _ask(self, ask: Ask, message: pb.ManagerMessage, now: float, timeout: float) -> int:
        request = self.speaker.request(message, now=now, timeout=timeout)
        self._asked[request] = ask
        return request

    def _work(self, now: float) -> None:
        self._now = now
        while (event := self.speaker.poll_event()) is not None:
            if isinstance(event, NoticeReceived):
                self._on_notice(event)
            elif isinstance(event, RequestReceived):
                self._on_request(event)
            elif isinstance(event, ResponseReceived):
                self._on_response(event)
            elif isinstance(event, RequestFailed):
                ask = self._asked.pop(event.request)
                self._events.append(Answered(ask, event.request, event.reason.value))
            else:
                self._events.append(event)

    def _on_notice(self, event: NoticeReceived) -> None:
        assert isinstance(event.message, pb.TunnelMessage)
        if event.kind == "log":
            self._tell_faults(f"log.{fault}, cut" for fault in log_faults(event.message.log))
            self._events.append(LogReceived(decode_log(event.message.log, self.speaker.dialect)))
        elif event.kind == "peer_update":
            self._merge(event.message.peer_update)
        else:
            self.speaker.count_drop(Drop.UNEXPECTED, event.kind)

    def _on_request(self, event: RequestReceived) -> None:
        assert isinstance(event.message, pb.TunnelMessage)
        if event.kind == "network_settings":
            settings = event.message.network_settings
            if (size := settings.ByteSize()) > MAX_SETTINGS_SIZE:
                error = f"network_settings: {size} bytes, at most {MAX_SETTINGS_SIZE} are taken"
                self.finish_settings(event.msg_id, error)
                return
            self._events.append(SettingsRequested(event.msg_id, settings))
        else:
            self.speaker.forget_request(event.msg_id)
            self.speaker.count_drop(Drop.UNEXPECTED, event.kind)

    def _on_response(self, event: ResponseReceived) -> None:
        assert isinstance(event.message, pb.TunnelMessage)
        ask = self._asked.pop(event.request)
        answer: pb.StartResponse | pb.StopResponse | pb.WakeResponse
        if ask is Ask.PEERS:
            self.workspaces.clear()
            self.agents.clear()
            self.told_at.clear()
            self._merge(event.message.peer_update)
            self._events.append(Answered(ask, event.request, None))
            return
        if ask is Ask.START:
            answer = event.message.start
        elif ask is Ask.STOP:
            answer = event.message.stop
        else:
            answer = event.message.wake
        error = None if answer.success else answer.error_message or "failed without a reason"
        self._events.append(Answered(ask, event.request, error))

    def _merge(self, update: pb.PeerUpdate) -> None:
        faults = [
            *_crowd_faults(update),
            *self._take_workspaces(update),
            *self._take_agents(update),
        ]
        self._tell_faults(f"peer_update.{fault}, left out" for fault in faults)
        for workspace in update.deleted_workspaces[:MAX_KNOWN_PEERS]:
            self.workspaces.pop(workspace.id, None)
        for agent in update.deleted_agents[:MAX_KNOWN_PEERS]:
            self.agents.pop(agent.id, None)
            self.told_at.pop(agent.id, None)
        self._events.append(PeersChanged())

    def _take_workspaces(self, update: pb.PeerUpdate) -> Iterator[str]:
        for workspace in update.upserted_workspaces[:MAX_KNOWN_PEERS]:
            if (fault := workspace_fault(workspace)) is not None:
                yield f"upserted_workspaces.{fault}"
            elif workspace.id not in self.workspaces and len(self.workspaces) >= MAX_KNOWN_PEERS:
                yield f"upserted_workspaces: more than {MAX_KNOWN_PEERS}"
            else:
                self.workspaces[workspace.id] = own_workspace(workspace)

    def _take_agents(self, update: pb.PeerUpdate) -> Iterator[str]:
        for agent in update.upserted_agents[:MAX_KNOWN_PEERS]:
            if (fault := agent_fault(agent)) is not None:
                yield f"upserted_agents.{fault}"
            elif agent.id not in self.agents and len(self.agents) >= MAX_KNOWN_PEERS:
                yield f"upserted_agents: more than {MAX_KNOWN_PEERS}"
            else:
                self.agents[agent.id] = own_agent(agent)
                self.told_at[agent.id] = self._now

    def _tell_faults(self, faults: Iterable[str]) -> None:
        for count, fault in enumerate(faults):
            self.speaker.count_drop(Drop.OUT_OF_BOUNDS)
            if count < MAX_FAULTS_TOLD:
                log.warning("codervpn: %s", fault)


def _crowd_faults(update: pb.PeerUpdate) -> Iterator[str]:
    """Name the lists that are longer than what can be known; their rest isn't looked at."""
    lists: tuple[tuple[str, Sized], ...] = (
        ("upserted_workspaces", update.upserted_workspaces),
        ("upserted_agents", update.upserted_agents),
        ("deleted_workspaces", update.deleted_workspaces),
        ("deleted_agents", update.deleted_agents),
    )
    for name, items in lists:
        if len(items) > MAX_KNOWN_PEERS:
            yield f"{name}: {len(items)} of them, more than {MAX_KNOWN_PEERS}"
