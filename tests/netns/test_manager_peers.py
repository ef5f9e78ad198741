"""What a tunnel tells of workspaces and agents reaches who asks a real manager for its status.

The test is the tunnel, from bytes.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_agent
from ginnel.daemon.paths import NetworkPaths
from support.confined import can_enter_namespaces
from support.raw_tunnel import WAIT, Stream, in_namespaces, manager

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
        reason="no user namespaces or no TUN here",
    ),
]
LAB = pb.Workspace(id=b"w", name="lab", status=pb.Workspace.Status.STARTING)


def status(root: Path) -> dict[str, Any]:
    paths = NetworkPaths("test", *(root / name for name in ("etc", "state", "run")))
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(WAIT)
        stream.connect(str(paths.manager_socket))
        stream.sendall(b'{"verb": "status"}\n')
        answer: dict[str, Any] = json.loads(stream.makefile("rb").readline())
    return answer


def is_read(stream: Stream) -> None:
    """Wait until the manager has read all that was said."""
    assert not stream.ask(pb.NetworkSettingsRequest(mtu=1)).success


def answer_with_peers(stream: Stream) -> None:
    asked = stream.read()
    assert asked.WhichOneof("msg") == "get_peer_update"
    update = pb.PeerUpdate(upserted_workspaces=[LAB], upserted_agents=[make_agent(b"1", "pi")])
    answer = pb.TunnelMessage(peer_update=update)
    answer.rpc.response_to = asked.rpc.msg_id
    stream.say(answer)


def leave_unanswered(stream: Stream) -> None:
    assert stream.read().WhichOneof("msg") == "get_peer_update"
    update = pb.PeerUpdate(upserted_workspaces=[LAB], upserted_agents=[make_agent(b"1", "pi")])
    stream.say(pb.TunnelMessage(peer_update=update))


@pytest.mark.parametrize("tell", [answer_with_peers, leave_unanswered])
def test_the_manager_asks_for_all_peers_and_shows_workspaces(
    tmp_path: Path, tell: Callable[[Stream], None]
) -> None:
    def body() -> None:
        with manager(tmp_path) as (stream, _):
            stream.start("")
            tell(stream)
            is_read(stream)
            told = status(tmp_path)
            assert told["workspaces"] == [{"name": "lab", "status": "starting"}]
            assert [peer["name"] for peer in told["peers"]] == ["pi"]
            assert told["tunnel"]["state"] == "running"

    in_namespaces(tmp_path, body)
