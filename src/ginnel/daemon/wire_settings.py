"""What the tunnel asks its manager for and tells it: network settings, workspace, agents."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

from ginnel.base.errors import RemoteProtocolError, SystemFailure
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.mesh.derive import network_id_of, overlay_prefix
from ginnel.mesh.events import PeerChanged
from ginnel.mesh.membership import Membership
from ginnel.mesh.names import overlay_addresses
from ginnel.mesh.objects import Certificate, decode_object, parse_certificate, parse_network
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


def make_settings(
    certificate: Certificate, membership: Membership, mtu: int
) -> pb.NetworkSettingsRequest:
    """Return the request for our addresses and the routes of our network only."""
    settings = pb.NetworkSettingsRequest(tunnel_overhead_bytes=OVERHEAD, mtu=mtu)
    for text in overlay_prefixes(membership):
        prefix = ip_network(text)
        if isinstance(prefix, IPv4Network):
            if not certificate.ipv4:
                continue
            settings.ipv4_settings.addrs.append(str(ip_address(certificate.ipv4)))
            settings.ipv4_settings.subnet_masks.append("255.255.255.255")
            settings.ipv4_settings.included_routes.add(
                destination=str(prefix.network_address), mask=str(prefix.netmask)
            )
        else:
            settings.ipv6_settings.addrs.append(str(ip_address(certificate.ipv6)))
            settings.ipv6_settings.prefix_lengths.append(128)
            settings.ipv6_settings.included_routes.add(
                destination=str(prefix.network_address), prefix_length=prefix.prefixlen
            )
    return settings


def make_workspace(membership: Membership) -> pb.Workspace:
    """Return the network as a workspace."""
    assert membership.network is not None
    return pb.Workspace(
        id=membership.network_id[:16],
        name=membership.network.name,
        status=pb.Workspace.Status.RUNNING,
    )


def make_agent(
    peer: PeerChanged, network_id: bytes, *, last_handshake_unix: float | None
) -> pb.Agent:
    """Return a peer as an agent."""
    agent = pb.Agent(
        id=peer.member_id[:16],
        name=peer.name,
        workspace_id=network_id[:16],
        fqdn=[peer.full_name],
        ip_addrs=list(peer.addresses),
    )
    if last_handshake_unix is not None:
        agent.last_handshake.FromNanoseconds(int(last_handshake_unix * 1e9))
    if peer.state.latency_s is not None:
        agent.last_ping.latency.FromNanoseconds(int(peer.state.latency_s * 1e9))
        agent.last_ping.did_p2p = peer.state.direct
    return agent
