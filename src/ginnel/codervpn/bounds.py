"""What a manager takes of a tunnel's one-way messages: every field has a limit, and faults a name.

A tunnel is not trusted: an agent or workspace beyond a limit is left out, a log record is cut. What
is kept is a copy, so that no reference holds the rest of a large message.

Source: seed 002 (PeerUpdate, Log); limits are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ginnel.codervpn import vpn_pb2 as pb

MAX_RECORD = 4096  # bytes of an agent or a workspace; with long names and all fields some 1500
MAX_ID = 64  # bytes; a UUID has 16
MAX_NAME = 255  # characters of any name
MAX_NAMES = 16  # fqdn, addresses, logger names: of each
MAX_LOG_MESSAGE = 4 * 1024 * 1024  # characters of one record
MAX_LOG_FIELDS = 32  # of one record
MAX_LOG_VALUE = 8 * 1024  # characters of a field's value
LAST_SECOND = 253_402_300_799  # of the year 9999, where a Timestamp ends
LONGEST_S = 3600  # seconds of any latency
_NANOS = 1_000_000_000


def agent_fault(agent: pb.Agent) -> str | None:
    """Say what is wrong with an agent, beginning with the field's name; None: nothing."""
    faults = [
        *_id_faults("id", agent.id),
        *_id_faults("workspace_id", agent.workspace_id, may_lack=True),
        *_name_faults("name", agent.name),
        *_names_faults("fqdn", agent.fqdn),
        *_names_faults("ip_addrs", agent.ip_addrs),
    ]
    if not faults:
        faults += _address_faults(agent)
    if agent.HasField("last_handshake"):
        faults += _time_faults("last_handshake", agent.last_handshake, LAST_SECOND)
    if agent.HasField("last_ping"):
        ping = agent.last_ping
        faults += _time_faults("last_ping.latency", ping.latency, LONGEST_S)
        faults += _name_faults("last_ping.preferred_derp", ping.preferred_derp)
        derp = "last_ping.preferred_derp_latency"
        faults += _time_faults(derp, ping.preferred_derp_latency, LONGEST_S)
    return next(iter([*faults, *_size_faults(agent.ByteSize())]), None)


def workspace_fault(workspace: pb.Workspace) -> str | None:
    """Say what is wrong with a workspace, beginning with the field's name; None: nothing."""
    faults = [*_id_faults("id", workspace.id), *_name_faults("name", workspace.name)]
    if workspace.status not in pb.Workspace.Status.values():
        faults.append(f"status: {workspace.status} is none")
    return next(iter(faults), None)


def log_faults(log: pb.Log) -> list[str]:
    """Return what of a log record will be cut off or replaced, by the fields' names."""
    found = [] if log.level in pb.Log.Level.values() else [f"level: {log.level} is none"]
    if len(log.message) > MAX_LOG_MESSAGE:
        found.append(f"message: {len(log.message)} characters")
    found += _names_faults("logger_names", log.logger_names)
    if len(log.fields) > MAX_LOG_FIELDS:
        found.append(f"fields: {len(log.fields)} of them")
    for item in log.fields[:MAX_LOG_FIELDS]:
        found += _name_faults("fields.name", item.name)
        if len(item.value) > MAX_LOG_VALUE:
            found.append(f"fields.value: {len(item.value)} characters")
    return found


def own_agent(agent: pb.Agent) -> pb.Agent:
    """Return a copy without fields that we don't know; the original loses them too."""
    agent.DiscardUnknownFields()  # before: a copy's memory would keep them
    copy = pb.Agent()
    copy.CopyFrom(agent)
    return copy


def own_workspace(workspace: pb.Workspace) -> pb.Workspace:
    """Return a copy without fields that we don't know."""
    return pb.Workspace(id=workspace.id, name=workspace.name, status=workspace.status)


def _size_faults(size: int) -> Iterator[str]:
    if size > MAX_RECORD:
        yield f"size: {size} bytes, at most {MAX_RECORD} belong there"


def _id_faults(name: str, value: bytes, *, may_lack: bool = False) -> Iterator[str]:
    if not (may_lack or value) or len(value) > MAX_ID:
        yield f"{name}: {len(value)} bytes, 1 to {MAX_ID} belong there"


def _name_faults(name: str, value: str) -> Iterator[str]:
    if len(value) > MAX_NAME:
        yield f"{name}: {len(value)} characters, at most {MAX_NAME} belong there"


def _names_faults(name: str, values: Sequence[str]) -> Iterator[str]:
    if len(values) > MAX_NAMES:
        yield f"{name}: {len(values)} of them, at most {MAX_NAMES} belong there"
        return
    for value in values:
        yield from _name_faults(name, value)


def _address_faults(agent: pb.Agent) -> Iterator[str]:
    for text in agent.ip_addrs:
        try:
            ip_address(text)
        except ValueError:
            yield f"ip_addrs: {text[:60]!r} is no address"


def _time_faults(name: str, value: Timestamp | Duration, most: int) -> Iterator[str]:
    if not (0 <= value.seconds <= most and 0 <= value.nanos < _NANOS):
        yield f"{name}: {value.seconds} s, {value.nanos} ns is out of range"
