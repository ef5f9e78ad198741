# mypy: disable-error-code="type-arg"
import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RPC(_message.Message):
    __slots__ = ("msg_id", "response_to")
    MSG_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TO_FIELD_NUMBER: _ClassVar[int]
    msg_id: int
    response_to: int
    def __init__(self, msg_id: _Optional[int] = ..., response_to: _Optional[int] = ...) -> None: ...

class ManagerMessage(_message.Message):
    __slots__ = ("rpc", "get_peer_update", "network_settings", "start", "stop", "wake")
    RPC_FIELD_NUMBER: _ClassVar[int]
    GET_PEER_UPDATE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    WAKE_FIELD_NUMBER: _ClassVar[int]
    rpc: RPC
    get_peer_update: GetPeerUpdate
    network_settings: NetworkSettingsResponse
    start: StartRequest
    stop: StopRequest
    wake: WakeRequest
    def __init__(self, rpc: _Optional[_Union[RPC, _Mapping]] = ..., get_peer_update: _Optional[_Union[GetPeerUpdate, _Mapping]] = ..., network_settings: _Optional[_Union[NetworkSettingsResponse, _Mapping]] = ..., start: _Optional[_Union[StartRequest, _Mapping]] = ..., stop: _Optional[_Union[StopRequest, _Mapping]] = ..., wake: _Optional[_Union[WakeRequest, _Mapping]] = ...) -> None: ...

class TunnelMessage(_message.Message):
    __slots__ = ("rpc", "log", "peer_update", "network_settings", "start", "stop", "wake")
    RPC_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    PEER_UPDATE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    WAKE_FIELD_NUMBER: _ClassVar[int]
    rpc: RPC
    log: Log
    peer_update: PeerUpdate
    network_settings: NetworkSettingsRequest
    start: StartResponse
    stop: StopResponse
    wake: WakeResponse
    def __init__(self, rpc: _Optional[_Union[RPC, _Mapping]] = ..., log: _Optional[_Union[Log, _Mapping]] = ..., peer_update: _Optional[_Union[PeerUpdate, _Mapping]] = ..., network_settings: _Optional[_Union[NetworkSettingsRequest, _Mapping]] = ..., start: _Optional[_Union[StartResponse, _Mapping]] = ..., stop: _Optional[_Union[StopResponse, _Mapping]] = ..., wake: _Optional[_Union[WakeResponse, _Mapping]] = ...) -> None: ...

class Log(_message.Message):
    __slots__ = ("level", "message", "logger_names", "fields")
    class Level(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Log.Level]
        DEBUG: _ClassVar[Log.Level]
        INFO: _ClassVar[Log.Level]
        WARN: _ClassVar[Log.Level]
        ERROR: _ClassVar[Log.Level]
        CRITICAL: _ClassVar[Log.Level]
        FATAL: _ClassVar[Log.Level]
    UNSPECIFIED: Log.Level
    DEBUG: Log.Level
    INFO: Log.Level
    WARN: Log.Level
    ERROR: Log.Level
    CRITICAL: Log.Level
    FATAL: Log.Level
    class Field(_message.Message):
        __slots__ = ("name", "value")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        name: str
        value: str
        def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LOGGER_NAMES_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    level: Log.Level
    message: str
    logger_names: _containers.RepeatedScalarFieldContainer[str]
    fields: _containers.RepeatedCompositeFieldContainer[Log.Field]
    def __init__(self, level: _Optional[_Union[Log.Level, str]] = ..., message: _Optional[str] = ..., logger_names: _Optional[_Iterable[str]] = ..., fields: _Optional[_Iterable[_Union[Log.Field, _Mapping]]] = ...) -> None: ...

class GetPeerUpdate(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PeerUpdate(_message.Message):
    __slots__ = ("upserted_workspaces", "upserted_agents", "deleted_workspaces", "deleted_agents")
    UPSERTED_WORKSPACES_FIELD_NUMBER: _ClassVar[int]
    UPSERTED_AGENTS_FIELD_NUMBER: _ClassVar[int]
    DELETED_WORKSPACES_FIELD_NUMBER: _ClassVar[int]
    DELETED_AGENTS_FIELD_NUMBER: _ClassVar[int]
    upserted_workspaces: _containers.RepeatedCompositeFieldContainer[Workspace]
    upserted_agents: _containers.RepeatedCompositeFieldContainer[Agent]
    deleted_workspaces: _containers.RepeatedCompositeFieldContainer[Workspace]
    deleted_agents: _containers.RepeatedCompositeFieldContainer[Agent]
    def __init__(self, upserted_workspaces: _Optional[_Iterable[_Union[Workspace, _Mapping]]] = ..., upserted_agents: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ..., deleted_workspaces: _Optional[_Iterable[_Union[Workspace, _Mapping]]] = ..., deleted_agents: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ...) -> None: ...

class Workspace(_message.Message):
    __slots__ = ("id", "name", "status")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Workspace.Status]
        PENDING: _ClassVar[Workspace.Status]
        STARTING: _ClassVar[Workspace.Status]
        RUNNING: _ClassVar[Workspace.Status]
        STOPPING: _ClassVar[Workspace.Status]
        STOPPED: _ClassVar[Workspace.Status]
        FAILED: _ClassVar[Workspace.Status]
        CANCELING: _ClassVar[Workspace.Status]
        CANCELED: _ClassVar[Workspace.Status]
        DELETING: _ClassVar[Workspace.Status]
        DELETED: _ClassVar[Workspace.Status]
    UNKNOWN: Workspace.Status
    PENDING: Workspace.Status
    STARTING: Workspace.Status
    RUNNING: Workspace.Status
    STOPPING: Workspace.Status
    STOPPED: Workspace.Status
    FAILED: Workspace.Status
    CANCELING: Workspace.Status
    CANCELED: Workspace.Status
    DELETING: Workspace.Status
    DELETED: Workspace.Status
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    name: str
    status: Workspace.Status
    def __init__(self, id: _Optional[bytes] = ..., name: _Optional[str] = ..., status: _Optional[_Union[Workspace.Status, str]] = ...) -> None: ...

class Agent(_message.Message):
    __slots__ = ("id", "name", "workspace_id", "fqdn", "ip_addrs", "last_handshake", "last_ping")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    FQDN_FIELD_NUMBER: _ClassVar[int]
    IP_ADDRS_FIELD_NUMBER: _ClassVar[int]
    LAST_HANDSHAKE_FIELD_NUMBER: _ClassVar[int]
    LAST_PING_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    name: str
    workspace_id: bytes
    fqdn: _containers.RepeatedScalarFieldContainer[str]
    ip_addrs: _containers.RepeatedScalarFieldContainer[str]
    last_handshake: _timestamp_pb2.Timestamp
    last_ping: LastPing
    def __init__(self, id: _Optional[bytes] = ..., name: _Optional[str] = ..., workspace_id: _Optional[bytes] = ..., fqdn: _Optional[_Iterable[str]] = ..., ip_addrs: _Optional[_Iterable[str]] = ..., last_handshake: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_ping: _Optional[_Union[LastPing, _Mapping]] = ...) -> None: ...

class LastPing(_message.Message):
    __slots__ = ("latency", "did_p2p", "preferred_derp", "preferred_derp_latency")
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    DID_P2P_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_DERP_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_DERP_LATENCY_FIELD_NUMBER: _ClassVar[int]
    latency: _duration_pb2.Duration
    did_p2p: bool
    preferred_derp: str
    preferred_derp_latency: _duration_pb2.Duration
    def __init__(self, latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., did_p2p: _Optional[bool] = ..., preferred_derp: _Optional[str] = ..., preferred_derp_latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class NetworkSettingsRequest(_message.Message):
    __slots__ = ("tunnel_overhead_bytes", "mtu", "dns_settings", "tunnel_remote_address", "ipv4_settings", "ipv6_settings")
    class DNSSettings(_message.Message):
        __slots__ = ("servers", "search_domains", "domain_name", "match_domains", "match_domains_no_search")
        SERVERS_FIELD_NUMBER: _ClassVar[int]
        SEARCH_DOMAINS_FIELD_NUMBER: _ClassVar[int]
        DOMAIN_NAME_FIELD_NUMBER: _ClassVar[int]
        MATCH_DOMAINS_FIELD_NUMBER: _ClassVar[int]
        MATCH_DOMAINS_NO_SEARCH_FIELD_NUMBER: _ClassVar[int]
        servers: _containers.RepeatedScalarFieldContainer[str]
        search_domains: _containers.RepeatedScalarFieldContainer[str]
        domain_name: str
        match_domains: _containers.RepeatedScalarFieldContainer[str]
        match_domains_no_search: bool
        def __init__(self, servers: _Optional[_Iterable[str]] = ..., search_domains: _Optional[_Iterable[str]] = ..., domain_name: _Optional[str] = ..., match_domains: _Optional[_Iterable[str]] = ..., match_domains_no_search: _Optional[bool] = ...) -> None: ...
    class IPv4Settings(_message.Message):
        __slots__ = ("addrs", "subnet_masks", "router", "included_routes", "excluded_routes")
        class IPv4Route(_message.Message):
            __slots__ = ("destination", "mask", "router")
            DESTINATION_FIELD_NUMBER: _ClassVar[int]
            MASK_FIELD_NUMBER: _ClassVar[int]
            ROUTER_FIELD_NUMBER: _ClassVar[int]
            destination: str
            mask: str
            router: str
            def __init__(self, destination: _Optional[str] = ..., mask: _Optional[str] = ..., router: _Optional[str] = ...) -> None: ...
        ADDRS_FIELD_NUMBER: _ClassVar[int]
        SUBNET_MASKS_FIELD_NUMBER: _ClassVar[int]
        ROUTER_FIELD_NUMBER: _ClassVar[int]
        INCLUDED_ROUTES_FIELD_NUMBER: _ClassVar[int]
        EXCLUDED_ROUTES_FIELD_NUMBER: _ClassVar[int]
        addrs: _containers.RepeatedScalarFieldContainer[str]
        subnet_masks: _containers.RepeatedScalarFieldContainer[str]
        router: str
        included_routes: _containers.RepeatedCompositeFieldContainer[NetworkSettingsRequest.IPv4Settings.IPv4Route]
        excluded_routes: _containers.RepeatedCompositeFieldContainer[NetworkSettingsRequest.IPv4Settings.IPv4Route]
        def __init__(self, addrs: _Optional[_Iterable[str]] = ..., subnet_masks: _Optional[_Iterable[str]] = ..., router: _Optional[str] = ..., included_routes: _Optional[_Iterable[_Union[NetworkSettingsRequest.IPv4Settings.IPv4Route, _Mapping]]] = ..., excluded_routes: _Optional[_Iterable[_Union[NetworkSettingsRequest.IPv4Settings.IPv4Route, _Mapping]]] = ...) -> None: ...
    class IPv6Settings(_message.Message):
        __slots__ = ("addrs", "prefix_lengths", "included_routes", "excluded_routes")
        class IPv6Route(_message.Message):
            __slots__ = ("destination", "prefix_length", "router")
            DESTINATION_FIELD_NUMBER: _ClassVar[int]
            PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
            ROUTER_FIELD_NUMBER: _ClassVar[int]
            destination: str
            prefix_length: int
            router: str
            def __init__(self, destination: _Optional[str] = ..., prefix_length: _Optional[int] = ..., router: _Optional[str] = ...) -> None: ...
        ADDRS_FIELD_NUMBER: _ClassVar[int]
        PREFIX_LENGTHS_FIELD_NUMBER: _ClassVar[int]
        INCLUDED_ROUTES_FIELD_NUMBER: _ClassVar[int]
        EXCLUDED_ROUTES_FIELD_NUMBER: _ClassVar[int]
        addrs: _containers.RepeatedScalarFieldContainer[str]
        prefix_lengths: _containers.RepeatedScalarFieldContainer[int]
        included_routes: _containers.RepeatedCompositeFieldContainer[NetworkSettingsRequest.IPv6Settings.IPv6Route]
        excluded_routes: _containers.RepeatedCompositeFieldContainer[NetworkSettingsRequest.IPv6Settings.IPv6Route]
        def __init__(self, addrs: _Optional[_Iterable[str]] = ..., prefix_lengths: _Optional[_Iterable[int]] = ..., included_routes: _Optional[_Iterable[_Union[NetworkSettingsRequest.IPv6Settings.IPv6Route, _Mapping]]] = ..., excluded_routes: _Optional[_Iterable[_Union[NetworkSettingsRequest.IPv6Settings.IPv6Route, _Mapping]]] = ...) -> None: ...
    TUNNEL_OVERHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    DNS_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TUNNEL_REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IPV4_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    IPV6_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    tunnel_overhead_bytes: int
    mtu: int
    dns_settings: NetworkSettingsRequest.DNSSettings
    tunnel_remote_address: str
    ipv4_settings: NetworkSettingsRequest.IPv4Settings
    ipv6_settings: NetworkSettingsRequest.IPv6Settings
    def __init__(self, tunnel_overhead_bytes: _Optional[int] = ..., mtu: _Optional[int] = ..., dns_settings: _Optional[_Union[NetworkSettingsRequest.DNSSettings, _Mapping]] = ..., tunnel_remote_address: _Optional[str] = ..., ipv4_settings: _Optional[_Union[NetworkSettingsRequest.IPv4Settings, _Mapping]] = ..., ipv6_settings: _Optional[_Union[NetworkSettingsRequest.IPv6Settings, _Mapping]] = ...) -> None: ...

class NetworkSettingsResponse(_message.Message):
    __slots__ = ("success", "error_message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error_message: str
    def __init__(self, success: _Optional[bool] = ..., error_message: _Optional[str] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("tunnel_file_descriptor", "coder_url", "api_token", "headers", "device_id", "device_os", "coder_desktop_version")
    class Header(_message.Message):
        __slots__ = ("name", "value")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        name: str
        value: str
        def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TUNNEL_FILE_DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    CODER_URL_FIELD_NUMBER: _ClassVar[int]
    API_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_OS_FIELD_NUMBER: _ClassVar[int]
    CODER_DESKTOP_VERSION_FIELD_NUMBER: _ClassVar[int]
    tunnel_file_descriptor: int
    coder_url: str
    api_token: str
    headers: _containers.RepeatedCompositeFieldContainer[StartRequest.Header]
    device_id: str
    device_os: str
    coder_desktop_version: str
    def __init__(self, tunnel_file_descriptor: _Optional[int] = ..., coder_url: _Optional[str] = ..., api_token: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[StartRequest.Header, _Mapping]]] = ..., device_id: _Optional[str] = ..., device_os: _Optional[str] = ..., coder_desktop_version: _Optional[str] = ...) -> None: ...

class StartResponse(_message.Message):
    __slots__ = ("success", "error_message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error_message: str
    def __init__(self, success: _Optional[bool] = ..., error_message: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ("success", "error_message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error_message: str
    def __init__(self, success: _Optional[bool] = ..., error_message: _Optional[str] = ...) -> None: ...

class WakeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WakeResponse(_message.Message):
    __slots__ = ("success", "error_message")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error_message: str
    def __init__(self, success: _Optional[bool] = ..., error_message: _Optional[str] = ...) -> None: ...
