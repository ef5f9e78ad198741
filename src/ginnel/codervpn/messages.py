"""Meaning of the protobuf messages: kinds, which version knows them, and values for people's code.

`Start` takes the place of StartRequest outside this package, because protobuf's own text would show
the token. Nothing newer than the negotiated version leaves: `fit_to_version` cuts it off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_interface, ip_network
from typing import TypeAlias

from ginnel.base.errors import UsageError
from ginnel.base.types import Secret
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.bounds import (
    MAX_LOG_FIELDS,
    MAX_LOG_MESSAGE,
    MAX_LOG_VALUE,
    MAX_NAME,
    MAX_NAMES,
)
from ginnel.codervpn.header import Dialect, Role, Version

Message: TypeAlias = pb.ManagerMessage | pb.TunnelMessage

# Where a response's field has another name than its request's.
RESPONSE_KINDS: Mapping[str, str] = {"get_peer_update": "peer_update"}
WAKE_VERSION = Version(1, 3)
LAST_PING_VERSION = Version(1, 2)
START_EXTRAS_VERSION = Version(1, 1)


class LogLevel(IntEnum):
    """Levels of Log; the wire's 0 is DEBUG in the shipped dialect, unspecified in the seed's."""

    UNSPECIFIED = -1
    DEBUG = 0
    INFO = 1
    WARN = 2
    ERROR = 3
    CRITICAL = 4
    FATAL = 5


@dataclass(frozen=True, slots=True)
class Start:
    """What a manager gives a tunnel to begin with; `file_descriptor` is -1 without a TUN."""

    file_descriptor: int
    url: str
    token: Secret
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    device_id: str = ""
    device_os: str = ""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of a tunnel's log."""

    level: LogLevel
    message: str
    logger_names: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()


def kind_of(message: Message) -> str | None:
    """Return the name of the field that is set in the message's oneof, or None."""
    kind: str | None = message.WhichOneof("msg")
    return kind


def new_message(role: Role) -> Message:
    """Return an empty message of the type that this role sends."""
    return pb.ManagerMessage() if role is Role.MANAGER else pb.TunnelMessage()


def is_known(kind: str, version: Version | None) -> bool:
    """Say whether this version has messages of that kind."""
    return kind != "wake" or (version is not None and version >= WAKE_VERSION)


def fit_to_version(message: Message, version: Version, dialect: Dialect) -> bool:
    """Remove from a message to be sent what this version doesn't know; False: nothing is left."""
    kind = kind_of(message)
    if kind is not None and not is_known(kind, version):
        return False
    if isinstance(message, pb.ManagerMessage):
        if kind == "start" and version < START_EXTRAS_VERSION:
            for name in ("headers", "device_id", "device_os", "coder_desktop_version"):
                message.start.ClearField(name)
    elif kind == "peer_update":
        update = message.peer_update
        for agent in (*update.upserted_agents, *update.deleted_agents):
            if version < LAST_PING_VERSION:
                agent.ClearField("last_ping")
            if dialect is Dialect.SEED and version < START_EXTRAS_VERSION:
                del agent.fqdn[1:]  # a single string there: a parser would keep the last one
    return True


def encode_start(start: Start) -> pb.StartRequest:
    """Return the wire form of `start`; once it is sent, `hide_token`."""
    request = pb.StartRequest(
        tunnel_file_descriptor=start.file_descriptor,
        coder_url=start.url,
        api_token=start.token.reveal().decode(),
        device_id=start.device_id,
        device_os=start.device_os,
    )
    for name, value in start.headers:
        request.headers.add(name=name, value=value)
    return request


def hide_token(request: pb.StartRequest) -> None:
    """Put `<secret>` in the token's place, so that the message's text doesn't show it."""
    if request.api_token:
        request.api_token = Secret.SHOWN


def decode_start(request: pb.StartRequest) -> Start:
    """Return the value of a StartRequest, its token wrapped and gone from the request."""
    token = Secret(request.api_token.encode())
    hide_token(request)
    return Start(
        file_descriptor=request.tunnel_file_descriptor,
        url=request.coder_url,
        token=token,
        headers=tuple((header.name, header.value) for header in request.headers),
        device_id=request.device_id,
        device_os=request.device_os,
    )


def decode_log(log: pb.Log, dialect: Dialect = Dialect.SHIPPED) -> LogRecord:
    """Return the value of a Log message; a level that we don't know counts as INFO.

    What is beyond the limits of `bounds` is cut off.
    """
    known = LogLevel.DEBUG <= log.level <= LogLevel.FATAL
    level = LogLevel(log.level) if known else LogLevel.INFO
    if level is LogLevel.DEBUG and dialect is Dialect.SEED:
        level = LogLevel.UNSPECIFIED
    return LogRecord(
        level=level,
        message=log.message[:MAX_LOG_MESSAGE],
        logger_names=tuple(name[:MAX_NAME] for name in log.logger_names[:MAX_NAMES]),
        fields=tuple(
            (item.name[:MAX_NAME], item.value[:MAX_LOG_VALUE])
            for item in log.fields[:MAX_LOG_FIELDS]
        ),
    )


def encode_log(record: LogRecord) -> pb.Log:
    """Return the wire form of a log record."""
    log = pb.Log(message=record.message, logger_names=record.logger_names)
    log.level = max(0, int(record.level))  # type: ignore[assignment]  # the enum's alias confuses the stub
    for name, value in record.fields:
        log.fields.add(name=name, value=value)
    return log


def make_settings(
    addresses: Iterable[str], routes: Iterable[str] = (), *, mtu: int
) -> pb.NetworkSettingsRequest:
    """Return a request for addresses (`100.64.0.1/16`), routes (`100.64.0.0/16`) and an MTU.

    Raises:
        UsageError: an address or route is none.
    """
    request = pb.NetworkSettingsRequest(mtu=mtu)
    try:
        interfaces = [ip_interface(text) for text in addresses]
        networks = [ip_network(text) for text in routes]
    except ValueError as error:
        raise UsageError(str(error)) from None
    for interface in interfaces:
        _add_address(request, interface)
    for network in networks:
        if isinstance(network, IPv4Network):
            request.ipv4_settings.included_routes.add(
                destination=str(network.network_address), mask=str(network.netmask)
            )
        else:
            request.ipv6_settings.included_routes.add(
                destination=str(network.network_address), prefix_length=network.prefixlen
            )
    return request


def make_agent(
    agent_id: bytes,
    name: str,
    *,
    workspace_id: bytes = b"",
    fqdn: Iterable[str] = (),
    ip_addrs: Iterable[str] = (),
    last_handshake_unix: float | None = None,
    latency_s: float | None = None,
    direct: bool = False,
    through: str = "",
) -> pb.Agent:
    """Return an Agent (in Ginnel: a peer); ids are UUIDs of 16 bytes, times are wall time.

    `through` names who relays where the path isn't direct (Coder's relays are called DERP).
    """
    agent = pb.Agent(id=agent_id, name=name, workspace_id=workspace_id)
    agent.fqdn.extend(fqdn)
    agent.ip_addrs.extend(ip_addrs)
    if last_handshake_unix is not None:
        agent.last_handshake.FromNanoseconds(int(last_handshake_unix * 1e9))
    if latency_s is not None:
        agent.last_ping.latency.FromNanoseconds(int(latency_s * 1e9))
        agent.last_ping.did_p2p = direct
        agent.last_ping.preferred_derp = through
    return agent


def _add_address(
    request: pb.NetworkSettingsRequest, interface: IPv4Interface | IPv6Interface
) -> None:
    if isinstance(interface, IPv4Interface):
        request.ipv4_settings.addrs.append(str(interface.ip))
        request.ipv4_settings.subnet_masks.append(str(interface.netmask))
    else:
        request.ipv6_settings.addrs.append(str(interface.ip))
        request.ipv6_settings.prefix_lengths.append(interface.network.prefixlen)
