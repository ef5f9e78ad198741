from dataclasses import replace

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address, MemberId
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.daemon.settings_check import Allowance, check_settings
from ginnel.daemon.wire_settings import (
    agent_for,
    bundle_addresses,
    overlay_prefixes,
    settings_for,
    who_relays,
    workspace_for,
)
from ginnel.mesh import derive
from ginnel.mesh.events import PeerChanged
from ginnel.peer.status import ConnStatus, PeerState
from ginnel.storage.identity import NodeBundle
from support.joins import joiner_keys
from support.members import MemberKeys, NetworkFactory

NET = NetworkFactory()
ALICE = MemberKeys("laptop-of-alice")
BUNDLE = NodeBundle(joiner_keys(ALICE.name), NET.network(), NET.admin_object(), NET.cert(ALICE, 1))


def test_a_network_has_two_prefixes() -> None:
    prefixes = overlay_prefixes(NET.membership(ALICE))
    assert prefixes == ("100.80.0.0/16", derive.overlay_prefix(NET.network_id))


def test_roots_own_files_say_what_a_tunnel_may_have() -> None:
    prefixes, addresses = bundle_addresses(BUNDLE)
    assert prefixes == overlay_prefixes(NET.membership(ALICE))
    assert "100.80.0.1" in addresses
    assert len(addresses) == 2


@pytest.mark.parametrize("name", ["network", "certificate"])
@pytest.mark.parametrize("raw", [b"", b"\xc0", b"nonsense", bytes(300)])
def test_damaged_objects_are_said_so(name: str, raw: bytes) -> None:
    with pytest.raises(SystemFailure, match="objects are damaged"):
        bundle_addresses(replace(BUNDLE, **{name: raw}))


def test_the_tunnel_asks_for_what_root_allows() -> None:
    membership = NET.membership(ALICE)
    certificate = membership.certificate_of(ALICE.member_id)
    assert certificate is not None
    settings = settings_for(certificate, membership, 1280)
    plan = check_settings(settings, Allowance.of(*bundle_addresses(BUNDLE)))
    assert plan.mtu == 1280
    assert [text.partition("/")[0] for text in plan.addresses] == list(bundle_addresses(BUNDLE)[1])
    assert sorted(plan.routes) == sorted(overlay_prefixes(membership))


def test_a_member_without_ipv4_asks_for_none() -> None:
    membership = NET.membership()
    raw = NET.cert(ALICE, ipv4=b"")
    membership.add_object(raw, unix_now=NET.now)
    certificate = membership.certificate_of(ALICE.member_id)
    assert certificate is not None
    settings = settings_for(certificate, membership, 1280)
    assert not settings.ipv4_settings.addrs
    assert len(settings.ipv6_settings.addrs) == 1


def test_the_network_is_a_workspace() -> None:
    workspace = workspace_for(NET.membership(ALICE))
    assert workspace.name == "meadowbrook"
    assert workspace.id == NET.network_id[:16]
    assert workspace.status == pb.Workspace.Status.RUNNING


def test_a_peer_is_an_agent() -> None:
    state = PeerState(
        bytes(32), ConnStatus.CONNECTED, remote_address=Address("192.0.2.1", 1), direct=True
    )
    peer = PeerChanged(ALICE.member_id, "alice", "alice.meadowbrook.internal", ("a",), state, "")
    agent = agent_for(peer, NET.network_id, last_handshake_unix=None)
    assert (agent.id, agent.name) == (ALICE.member_id[:16], "alice")
    assert not agent.HasField("last_handshake")
    assert not agent.HasField("last_ping")
    measured = replace(peer, state=replace(state, latency_s=0.25))
    agent = agent_for(measured, NET.network_id, last_handshake_unix=1.8e9 + 0.5)
    assert agent.last_handshake.seconds == 1_800_000_000
    assert agent.last_ping.latency.ToMilliseconds() == 250
    assert agent.last_ping.did_p2p


def peer_at(name: str, local: tuple[str, str], remote: tuple[str, str]) -> PeerChanged:
    """Return a connected peer with the kinds and IPs of its path."""
    is_relayed = "relay" in (local[0], remote[0])
    state = PeerState(
        name.encode(),
        ConnStatus.CONNECTED,
        local_kind=local[0],
        local_address=Address(local[1], 7),
        remote_kind=remote[0],
        remote_address=Address(remote[1], 8),
        direct=not is_relayed,
        relayed=is_relayed,
    )
    return PeerChanged(MemberId(name.encode()), name, f"{name}.home.internal", (), state, "")


def test_who_relays_is_a_members_name_or_a_servers_address() -> None:
    host = ("host", "192.0.2.1")
    relay = peer_at("relay", host, ("srflx", "198.51.100.1"))
    ours = peer_at("a", ("relay", "198.51.100.1"), ("relay", "198.51.100.1"))
    theirs = peer_at("b", host, ("relay", "203.0.113.5"))
    others = (relay, ours, theirs)
    assert [who_relays(peer, others) for peer in others] == ["", "relay", "203.0.113.5"]
    lost = replace(ours, state=replace(ours.state, status=ConnStatus.DISCONNECTED))
    assert who_relays(lost, others) == ""
    agent = agent_for(ours, bytes(32), last_handshake_unix=None, through="relay")
    assert not agent.HasField("last_ping")  # without an answer it would say nothing
    answering = replace(ours, state=replace(ours.state, latency_s=0.02))
    agent = agent_for(answering, bytes(32), last_handshake_unix=None, through="relay")
    assert (agent.last_ping.did_p2p, agent.last_ping.preferred_derp) == (False, "relay")
