"""What a manager takes of agents, workspaces and log records."""

from __future__ import annotations

import pytest

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.bounds import (
    MAX_NAMES,
    agent_fault,
    log_faults,
    own_agent,
    own_workspace,
    workspace_fault,
)
from ginnel.codervpn.frame import encode_frame
from ginnel.codervpn.manager_role import MAX_SETTINGS_SIZE, ManagerCore
from ginnel.codervpn.messages import make_agent
from ginnel.codervpn.speaker import Drop

PI = make_agent(
    b"i" * 16,
    "pi",
    workspace_id=b"w" * 16,
    fqdn=["pi.home.internal"],
    ip_addrs=["100.64.0.1", "fd12::1"],
    last_handshake_unix=1_700_000_000.5,
    latency_s=0.01,
    direct=True,
)


def test_what_is_right_is_taken_without_unknown_fields() -> None:
    assert agent_fault(PI) is None
    strange = pb.Agent.FromString(PI.SerializeToString() + b"\xfa\x3f\x01x")
    assert strange != PI
    assert own_agent(strange) == PI
    workspace = pb.Workspace(id=b"w" * 16, name="home", status=pb.Workspace.Status.RUNNING)
    assert workspace_fault(workspace) is None
    assert own_workspace(workspace) == workspace
    assert log_faults(pb.Log(level=pb.Log.Level.WARN, message="m", logger_names=["a"])) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (pb.Agent(id=b"i" * 65), "id: 65 bytes"),
        (pb.Agent(name="x" * 256), "name: 256 characters"),
        (pb.Agent(fqdn=["a"] * (MAX_NAMES + 1)), "fqdn: 18 of them"),
        (
            pb.Agent(
                fqdn=["a" * 255] * 15, ip_addrs=["fd12:3456:789a:bcde:fd12:3456:789a:bcde"] * 14
            ),
            "size: 4",
        ),
        (pb.Agent(ip_addrs=["x"]), "ip_addrs: 'x' is no address"),
        (pb.Agent(last_handshake={"seconds": -1}), "last_handshake: -1 s"),
        (pb.Agent(last_ping={"latency": {"seconds": 3601}}), "last_ping.latency: 3601 s"),
    ],
)
def test_a_fault_is_named(change: pb.Agent, named: str) -> None:
    agent = pb.Agent()
    agent.CopyFrom(PI)
    agent.MergeFrom(change)
    assert (agent_fault(agent) or "").startswith(named)


def test_one_bad_agent_does_not_hide_the_others() -> None:
    core = ManagerCore(now=0.0)
    core.handle_bytes(b"codervpn 1.3 tunnel\n", now=0.0)
    update = pb.PeerUpdate(upserted_agents=[pb.Agent(), PI])
    core.handle_bytes(encode_frame(pb.TunnelMessage(peer_update=update).SerializeToString()), now=0)
    assert list(core.agents.values()) == [PI]
    assert core.speaker.drops[Drop.OUT_OF_BOUNDS] == 1


def test_settings_over_the_limit_are_refused_by_their_size() -> None:
    core = ManagerCore(now=0.0)
    core.handle_bytes(b"codervpn 1.3 tunnel\n", now=0.0)
    core.poll_transmit()
    request = pb.TunnelMessage(
        network_settings={"tunnel_remote_address": "x" * MAX_SETTINGS_SIZE}, rpc={"msg_id": 7}
    )
    core.handle_bytes(encode_frame(request.SerializeToString()), now=0.0)
    answer = pb.ManagerMessage.FromString((core.poll_transmit() or b"")[4:])
    assert answer.rpc.response_to == 7
    assert answer.network_settings.error_message.startswith("network_settings: 10485")
