"""What the tunnel asks its manager for and tells it: network settings, workspace, agents."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from ginnel.base.errors import RemoteProtocolError, SystemFailure
from ginnel.codervpn import messages
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.mesh.derive import network_id_of, overlay_prefix
from ginnel.mesh.events import PeerChanged
from ginnel.mesh.membership import Membership
from ginnel.mesh.names import DOMAIN, allowed_ips, hosts, overlay_addresses
from ginnel.mesh.objects import Certificate, decode_object, parse_certificate, parse_network
from ginnel.net.dns import reverse_zones
from ginnel.net.dns_answers import Zone
from ginnel.peer.status import ConnStatus
from ginnel.storage.identity import NodeBundle

OVERHEAD = 80  # bytes of WireGuard, UDP and IPv6 around a packet


def overlay_prefixes(membership: Membership) -> tuple[str, ...]:
    """Return the network's own prefixes: its IPv4 one and its ULA /48."""
    network = membership.network
    assert network is not None
    ipv4 = f"{ip_address(network.ipv4_prefix)}/{network.ipv4_len}"
    return (ipv4, overlay_prefix(membership.network_id))


def bundle_addresses(bundle: NodeBundle) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the prefixes and addresses that root's own files name: all that a tunnel may have.

    Raises:
        SystemFailure: the files are damaged.
    """
    try:
        network = parse_network(decode_object(bundle.network))
        certificate = parse_certificate(decode_object(bundle.certificate))
    except RemoteProtocolError as error:
        raise SystemFailure(f"this network's objects are damaged: {error}") from None
    network_id = network_id_of(network.root_public)
    ipv4 = f"{ip_address(network.ipv4_prefix)}/{network.ipv4_len}"
    return (ipv4, overlay_prefix(network_id)), overlay_addresses(certificate)


def bundle_domain(bundle: NodeBundle) -> str:
    """Return the domain of the network's names.

    Raises:
        SystemFailure: the files are damaged.
    """
    try:
        return f"{parse_network(decode_object(bundle.network)).name}.{DOMAIN}"
    except RemoteProtocolError as error:
        raise SystemFailure(f"this network's objects are damaged: {error}") from None


def zone_of(membership: Membership) -> Zone:
    """Return the names that the network's name server answers for."""
    assert membership.network is not None
    return Zone(
        f"{membership.network.name}.{DOMAIN}",
        {host.full_name: host.addresses for host in hosts(membership)},
        tuple(map(ip_network, overlay_prefixes(membership))),
    )


def settings_for(
    certificate: Certificate, membership: Membership, mtu: int, *, with_dns: bool = False
) -> pb.NetworkSettingsRequest:
    """Return the request for our addresses and the routes of our network only."""
    prefixes = overlay_prefixes(membership)
    routes = prefixes if certificate.ipv4 else [text for text in prefixes if ":" in text]
    settings = messages.make_settings(allowed_ips(certificate), routes, mtu=mtu)
    settings.tunnel_overhead_bytes = OVERHEAD
    if with_dns:
        assert membership.network is not None
        dns = settings.dns_settings
        dns.servers.extend(overlay_addresses(certificate))
        dns.match_domains.append(f"{membership.network.name}.{DOMAIN}")
        for prefix in overlay_prefixes(membership):
            dns.match_domains.extend(reverse_zones(ip_network(prefix)))
        dns.match_domains_no_search = True
    return settings


def workspace_for(membership: Membership) -> pb.Workspace:
    """Return the network as a workspace."""
    assert membership.network is not None
    return pb.Workspace(
        id=membership.network_id[:16],
        name=membership.network.name,
        status=pb.Workspace.Status.RUNNING,
    )


def who_relays(peer: PeerChanged, others: Iterable[PeerChanged]) -> str:
    """Return the name of the member that relays to a peer, or a TURN server's IP; "": nobody."""
    state = peer.state
    if state.status is not ConnStatus.CONNECTED or not state.relayed:
        return ""
    at = state.local_address if state.local_kind == "relay" else state.remote_address
    if at is None:
        return ""
    for other in others:
        path = other.state.remote_address
        is_direct = other.state.status is ConnStatus.CONNECTED and not other.state.relayed
        if is_direct and path is not None and path.ip == at.ip and other is not peer:
            return other.name
    return at.ip


def agent_for(
    peer: PeerChanged, network_id: bytes, *, last_handshake_unix: float | None, through: str = ""
) -> pb.Agent:
    """Return a peer as an agent; only one whose path answers has a latency."""
    connected = peer.state.status is ConnStatus.CONNECTED
    return messages.make_agent(
        peer.member_id[:16],
        peer.name,
        workspace_id=network_id[:16],
        fqdn=[peer.full_name],
        ip_addrs=peer.addresses,
        last_handshake_unix=last_handshake_unix,
        latency_s=peer.state.latency_s if connected else None,
        direct=peer.state.direct and not peer.state.relayed,
        through=through,
    )
