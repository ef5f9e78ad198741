"""The numbers and types of CoderVPN's fields against a table transcribed from seed 002 by hand.

Not from `vpn.proto`: a slip there would be in the generated code of both our ends.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from ginnel.codervpn import vpn_pb2 as pb

# Message: type name number, ... (`*`: repeated; `?`: in the oneof `msg`; a type that begins
# with a dot is the message's own), as in the seed.
SEED = """
RPC: uint64 msg_id 1, uint64 response_to 2
ManagerMessage: RPC rpc 1, ?GetPeerUpdate get_peer_update 2
ManagerMessage: ?NetworkSettingsResponse network_settings 3, ?StartRequest start 4
ManagerMessage: ?StopRequest stop 5
TunnelMessage: RPC rpc 1, ?Log log 2, ?PeerUpdate peer_update 3
TunnelMessage: ?NetworkSettingsRequest network_settings 4, ?StartResponse start 5
TunnelMessage: ?StopResponse stop 6
Log: .Level level 1, string message 2, *string logger_names 3, *.Field fields 4
Log.Field: string name 1, string value 2
GetPeerUpdate:
PeerUpdate: *Workspace upserted_workspaces 1, *Agent upserted_agents 2
PeerUpdate: *Workspace deleted_workspaces 3, *Agent deleted_agents 4
Workspace: bytes id 1, string name 2, .Status status 3
Agent: bytes id 1, string name 2, bytes workspace_id 3, string fqdn 4, *string ip_addrs 5
Agent: google.protobuf.Timestamp last_handshake 6
NetworkSettingsRequest: uint32 tunnel_overhead_bytes 1, uint32 mtu 2
NetworkSettingsRequest: .DNSSettings dns_settings 3
NetworkSettingsRequest: string tunnel_remote_address 4
NetworkSettingsRequest: .IPv4Settings ipv4_settings 5
NetworkSettingsRequest: .IPv6Settings ipv6_settings 6
NetworkSettingsRequest.DNSSettings: *string servers 1, *string search_domains 2
NetworkSettingsRequest.DNSSettings: string domain_name 3, *string match_domains 4
NetworkSettingsRequest.DNSSettings: bool match_domains_no_search 5
NetworkSettingsRequest.IPv4Settings: *string addrs 1, *string subnet_masks 2, string router 3
NetworkSettingsRequest.IPv4Settings: *.IPv4Route included_routes 4
NetworkSettingsRequest.IPv4Settings: *.IPv4Route excluded_routes 5
NetworkSettingsRequest.IPv4Settings.IPv4Route: string destination 1, string mask 2, string router 3
NetworkSettingsRequest.IPv6Settings: *string addrs 1, *uint32 prefix_lengths 2
NetworkSettingsRequest.IPv6Settings: *.IPv6Route included_routes 3
NetworkSettingsRequest.IPv6Settings: *.IPv6Route excluded_routes 4
NetworkSettingsRequest.IPv6Settings.IPv6Route: string destination 1, uint32 prefix_length 2
NetworkSettingsRequest.IPv6Settings.IPv6Route: string router 3
NetworkSettingsResponse: bool success 1, string error_message 2
StartRequest: int32 tunnel_file_descriptor 1, string coder_url 2, string api_token 3
StartResponse: bool success 1, string error_message 2
StopRequest:
StopResponse: bool success 1, string error_message 2
"""
# What 1.1 to 1.3 added, and the one field that they changed: a name became several.
LATER = """
ManagerMessage: ?WakeRequest wake 6
TunnelMessage: ?WakeResponse wake 7
Agent: *string fqdn 4, LastPing last_ping 7
LastPing: google.protobuf.Duration latency 1, bool did_p2p 2, string preferred_derp 3
LastPing: google.protobuf.Duration preferred_derp_latency 4
StartRequest: *.Header headers 4, string device_id 5, string device_os 6
StartRequest: string coder_desktop_version 7
StartRequest.Header: string name 1, string value 2
WakeRequest:
WakeResponse: bool success 1, string error_message 2
"""
ENUMS = {
    "Log.Level": "UNSPECIFIED INFO WARN ERROR CRITICAL FATAL",
    "Workspace.Status": "UNKNOWN PENDING STARTING RUNNING STOPPING STOPPED FAILED CANCELING "
    "CANCELED DELETING DELETED",
}
SCALARS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}
PACKAGE = "ginnel.codervpn."


def read(table: str) -> dict[tuple[str, str], str]:
    """Return `type name number` by message and field, and an empty text for each message."""
    found: dict[tuple[str, str], str] = {}
    for line in table.strip().splitlines():
        message, _, fields = line.partition(":")
        found[message, ""] = ""
        found |= {(message, text.split()[1]): text for text in fields.strip().split(", ") if text}
    return found


def described(message: Descriptor) -> Iterator[tuple[tuple[str, str], str]]:
    name = message.full_name.removeprefix(PACKAGE)
    yield (name, ""), ""
    for field in message.fields:
        kind: Descriptor | EnumDescriptor | None = field.message_type or field.enum_type
        text = SCALARS[field.type] if kind is None else kind.full_name.removeprefix(PACKAGE)
        text = text.removeprefix(name) if text.startswith(f"{name}.") else text
        is_in_msg = field.containing_oneof is not None and field.containing_oneof.name == "msg"
        mark = "*" * field.is_repeated + "?" * is_in_msg
        yield (name, field.name), f"{mark}{text} {field.name} {field.number}"
    for nested in message.nested_types:
        yield from described(nested)


def test_every_field_has_the_seeds_number_and_type() -> None:
    ours = dict(
        item for top in pb.DESCRIPTOR.message_types_by_name.values() for item in described(top)
    )
    assert ours == read(SEED) | read(LATER)
    assert read(SEED).keys() & read(LATER).keys() == {
        ("ManagerMessage", ""),
        ("TunnelMessage", ""),
        ("Agent", ""),
        ("Agent", "fqdn"),
        ("StartRequest", ""),
    }


def test_every_enum_counts_as_in_the_seed() -> None:
    for name, words in ENUMS.items():
        outer, _, inner = name.partition(".")
        values = getattr(pb, outer).DESCRIPTOR.enum_types_by_name[inner].values_by_name
        numbers = {word: value.number for word, value in values.items()}
        if name == "Log.Level":
            assert numbers.pop("DEBUG") == 0  # the shipped dialect's name of 0
        assert numbers == {word: number for number, word in enumerate(words.split())}
