"""What is known of one peer's connection, as one frozen value for people and programs.

Source: seed 000 (State, ConnStatus).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate, CandidateKind


class ConnStatus(Enum):
    """Seed 000's three states."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"


class Stage(Enum):
    """Where a connection is on its way, in words for a person."""

    CLOSED = "closed"
    GATHERING = "waiting for addresses of this machine"
    QUEUED = "waiting for its turn to connect"
    OFFERING = "waiting for an answer"
    CHECKING = "looking for a path"
    CONFIGURING = "path found, WireGuard shakes hands"
    CONNECTED = "connected"
    BROKEN = "path lost, looking for another"
    WAITING = "no path, will try again"


@dataclass(frozen=True, slots=True)
class PeerState:
    """One peer's connection; times are monotonic seconds of the core's clock."""

    remote_key: bytes  # W_pub, 32 bytes
    status: ConnStatus = ConnStatus.DISCONNECTED
    changed_at: float = 0.0
    stage: Stage = Stage.CLOSED
    local_kind: str = ""  # host, srflx, prflx, relay; empty without a path
    local_address: Address | None = None
    remote_kind: str = ""
    remote_address: Address | None = None
    direct: bool = False
    relayed: bool = False
    why_relayed: str = ""  # what keeps a relayed path from being direct
    latency_s: float | None = None
    last_handshake_at: float | None = None
    overlay_ip: str = ""  # the first of the allowed IPs
    rosenpass_enabled: bool = False  # the peer runs Rosenpass
    remote_direct: bool | None = None  # what the peer tells of its side of the path (ModeMessage)
    reason: str = ""  # why there is no path, or why the last one was dropped


@dataclass(frozen=True, slots=True)
class WgStats:
    """WireGuard's counters of one peer, as a status shows them (seed 000's WGStats)."""

    last_handshake_unix: float | None = None
    tx_bytes: int = 0
    rx_bytes: int = 0


class StatusRecorder:
    """What is known of many peers: seed 000's status recorder.

    Peers are added before anything of them is recorded; what comes for one that is not (any more)
    there is refused by returning False.
    """

    def __init__(self) -> None:
        self._states: dict[bytes, PeerState] = {}
        self._stats: dict[bytes, WgStats] = {}

    def add_peer(self, key: bytes) -> None:
        """Begin to keep a peer's state; harmless if it is kept."""
        self._states.setdefault(key, PeerState(key))
        self._stats.setdefault(key, WgStats())

    def remove_peer(self, key: bytes) -> bool:
        """Forget a peer; return whether it was kept."""
        self._stats.pop(key, None)
        return self._states.pop(key, None) is not None

    def update_peer_state(self, state: PeerState) -> bool:
        """Record a state; return whether the peer is kept."""
        if state.remote_key not in self._states:
            return False
        self._states[state.remote_key] = state
        return True

    def update_latency(self, key: bytes, seconds: float) -> bool:
        """Record a round trip; return whether the peer is kept."""
        state = self._states.get(key)
        return state is not None and self.update_peer_state(replace(state, latency_s=seconds))

    def update_wireguard_stats(self, key: bytes, stats: WgStats) -> bool:
        """Record WireGuard's counters; return whether the peer is kept."""
        if key not in self._stats:
            return False
        self._stats[key] = stats
        return True

    def peer_state(self, key: bytes) -> PeerState | None:
        """Return what is known of a peer."""
        return self._states.get(key)

    def wireguard_stats(self, key: bytes) -> WgStats | None:
        """Return WireGuard's counters of a peer."""
        return self._stats.get(key)

    def peers(self) -> tuple[PeerState, ...]:
        """Return all states, by key."""
        return tuple(self._states[key] for key in sorted(self._states))


class StatusBoard:
    """Keeps one PeerState up to date, and knows whether a change is still to be told."""

    def __init__(self, remote_key: bytes, overlay_ip: str = "") -> None:
        self.state = PeerState(remote_key, overlay_ip=overlay_ip)
        self._told = self.state

    def take_change(self) -> PeerState | None:
        """Return the state if it changed since the last call, else None."""
        if self.state == self._told:
            return None
        self._told = self.state
        return self.state

    def show(
        self,
        now: float,
        status: ConnStatus | None = None,
        stage: Stage | None = None,
        **changes: Any,  # noqa: ANN401  # fields of PeerState, checked by `replace`
    ) -> None:
        """Change fields; `changed_at` follows the status."""
        old = self.state
        if status is not None and status is not old.status:
            changes["changed_at"] = now
        new_status, new_stage = status or old.status, stage or old.stage
        self.state = replace(old, status=new_status, stage=new_stage, **changes)

    def show_path(
        self, now: float, path: tuple[Candidate, Candidate] | None, why_relayed: str = ""
    ) -> None:
        """Show that we are connected over this pair (local, remote)."""
        if path is None:
            return
        local, remote = path
        self.show(
            now,
            ConnStatus.CONNECTED,
            Stage.CONNECTED,
            local_kind=local.kind.name.lower(),
            local_address=local.address,
            remote_kind=remote.kind.name.lower(),
            remote_address=remote.address,
            direct=local.kind is not CandidateKind.RELAY,
            relayed=CandidateKind.RELAY in (local.kind, remote.kind),
            why_relayed=why_relayed,
            reason="",
        )

    def reset(self, now: float, reason: str) -> None:
        """Forget the path, keep the last handshake."""
        self.state = PeerState(
            self.state.remote_key,
            changed_at=now,
            stage=self.state.stage,
            last_handshake_at=self.state.last_handshake_at,
            overlay_ip=self.state.overlay_ip,
            reason=reason,
        )
