from __future__ import annotations

from ginnel.codervpn import manager_role
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.frame import encode_frame
from ginnel.codervpn.manager_role import (
    Answered,
    Ask,
    ManagerCore,
    PeersChanged,
    SettingsRequested,
)
from ginnel.codervpn.messages import make_agent
from ginnel.codervpn.speaker import Drop, StreamClosed


def open_manager() -> ManagerCore:
    core = ManagerCore(now=0.0)
    core.handle_bytes(b"codervpn 1.3 tunnel\n", now=0.0)
    core.poll_event()
    return core


def tell(
    core: ManagerCore, update: pb.PeerUpdate, response_to: int = 0, *, now: float = 0.0
) -> None:
    message = pb.TunnelMessage(peer_update=update)
    if response_to:
        message.rpc.response_to = response_to
    core.handle_bytes(encode_frame(message.SerializeToString()), now=now)


def test_peers_are_merged_and_deleted() -> None:
    core = open_manager()
    tell(core, pb.PeerUpdate(upserted_agents=[make_agent(b"1", "a"), make_agent(b"2", "b")]))
    tell(core, pb.PeerUpdate(upserted_agents=[make_agent(b"2", "c")]))
    tell(core, pb.PeerUpdate(deleted_agents=[pb.Agent(id=b"1"), pb.Agent(id=b"9")]))
    assert {key: agent.name for key, agent in core.agents.items()} == {b"2": "c"}
    assert core.poll_event() == PeersChanged()


def test_when_an_agent_was_last_told_is_known() -> None:
    core = open_manager()
    both = pb.PeerUpdate(upserted_agents=[make_agent(b"1", "a"), make_agent(b"2", "b")])
    tell(core, both, now=5.0)
    tell(core, pb.PeerUpdate(upserted_agents=[make_agent(b"2", "b")]), now=7.0)
    assert core.told_at == {b"1": 5.0, b"2": 7.0}
    tell(core, pb.PeerUpdate(deleted_agents=[pb.Agent(id=b"1")]), now=8.0)
    assert core.told_at == {b"2": 7.0}
    tell(core, pb.PeerUpdate(), core.get_peers(now=9.0), now=9.0)
    assert core.told_at == {}


def test_a_full_answer_replaces_what_is_known() -> None:
    core = open_manager()
    tell(core, pb.PeerUpdate(upserted_workspaces=[pb.Workspace(id=b"1", name="old")]))
    assert core.poll_event() == PeersChanged()
    request = core.get_peers(now=0.0)
    tell(core, pb.PeerUpdate(upserted_workspaces=[pb.Workspace(id=b"2")]), request)
    assert list(core.workspaces) == [b"2"]
    assert core.poll_event() == PeersChanged()
    assert core.poll_event() == Answered(Ask.PEERS, request, None)


def test_a_tunnel_that_ends_its_writing_is_gone_with_what_it_asked_for() -> None:
    core = open_manager()
    message = pb.TunnelMessage(network_settings=pb.NetworkSettingsRequest(mtu=1280))
    message.rpc.msg_id = 1
    core.handle_bytes(encode_frame(message.SerializeToString()), now=0.0)
    assert isinstance(core.poll_event(), SettingsRequested)
    core.handle_eof(now=0.0)
    assert core.poll_event() == StreamClosed(None)
    assert core.poll_deadline() is None


def test_what_a_tunnel_can_make_us_remember_is_bounded() -> None:
    core = open_manager()
    many = [make_agent(n.to_bytes(4, "big"), "a") for n in range(manager_role.MAX_KNOWN_PEERS + 9)]
    tell(core, pb.PeerUpdate(upserted_agents=many))
    assert len(core.agents) == manager_role.MAX_KNOWN_PEERS


def test_a_list_that_is_too_long_is_named_and_its_rest_is_not_looked_at() -> None:
    core = open_manager()
    crowd = [pb.Agent(id=n.to_bytes(4, "big")) for n in range(manager_role.MAX_KNOWN_PEERS + 1)]
    tell(core, pb.PeerUpdate(upserted_agents=crowd[-1:]))
    tell(core, pb.PeerUpdate(deleted_agents=crowd))
    assert list(core.agents) == [crowd[-1].id]
    assert core.speaker.drops[Drop.OUT_OF_BOUNDS] == 1
