from __future__ import annotations

import pytest

from ginnel.base.errors import UsageError
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.frame import FrameReader
from ginnel.codervpn.messages import LogLevel, LogRecord, make_agent
from ginnel.codervpn.speaker import Drop
from ginnel.codervpn.tunnel_role import MAX_PEERS, StartRequested, TunnelCore
from support.codervpn_bytes import START, STOP, STOPPED, sent, tunnel_events


def open_tunnel() -> TunnelCore:
    core = TunnelCore(now=0.0)
    core.handle_bytes(b"codervpn 1.3 manager\n", now=0.0)
    core.poll_event()
    core.poll_transmit()
    return core


def updates(core: TunnelCore) -> list[pb.PeerUpdate]:
    reader = FrameReader()
    while data := core.poll_transmit():
        reader.feed(data)
    found = []
    while (body := reader.next_frame()) is not None:
        found.append(pb.TunnelMessage.FromString(body).peer_update)
    return found


def test_changes_that_waited_go_as_one_update_with_the_newest_state() -> None:
    core = open_tunnel()
    core.upsert(agents=[make_agent(b"2", "known")])
    updates(core)
    for number in range(100):
        core.upsert(agents=[make_agent(b"1", f"name {number}"), make_agent(b"2", "gone")])
    core.delete(agent_ids=[b"2", b"unknown"])
    (update,) = updates(core)
    assert [agent.name for agent in update.upserted_agents] == ["name 99"]
    assert [agent.id for agent in update.deleted_agents] == [b"2"]
    assert updates(core) == []


def test_peers_that_come_and_go_unseen_leave_nothing() -> None:
    core = open_tunnel()
    core.upsert([pb.Workspace(id=b"w")], [make_agent(b"1", "a")])
    core.handle_bytes(bytes.fromhex("000000060a0208011200"), now=0.0)  # asks for all
    assert core.poll_transmit()
    for number in range(100):
        core.upsert(agents=[make_agent(b"%d" % number, "briefly")])
        core.delete(agent_ids=[b"%d" % number], workspace_ids=[b"w", b"unknown"])
    (update,) = updates(core)
    assert [agent.id for agent in update.deleted_agents] == [b"1"]
    assert [workspace.id for workspace in update.deleted_workspaces] == [b"w"]
    assert not update.upserted_agents


def test_the_stops_answer_is_the_last_frame() -> None:
    core = open_tunnel()
    core.handle_bytes(bytes.fromhex("000000060a0208012a00"), now=0.0)  # stop
    core.finish_stop()
    core.upsert(agents=[make_agent(b"1", "late")])
    assert not core.write_log(LogRecord(LogLevel.INFO, "late"))
    late = bytes.fromhex("000000060a0208023200 000000060a0208031200".replace(" ", ""))
    core.handle_bytes(late, now=0.0)  # wake, the full set
    assert core.poll_transmit() == bytes.fromhex("000000080a02100132020801")
    assert core.poll_transmit() is None
    assert core.speaker.drops[Drop.TOO_LATE] == 2
    core.request_settings(pb.NetworkSettingsRequest(), now=0.0)
    assert core.poll_transmit() is None


@pytest.mark.parametrize("is_running", [False, True])
def test_nothing_starts_once_it_is_to_stop(is_running: bool) -> None:
    core = open_tunnel()
    if is_running:
        core.handle_bytes(START, now=0.0)
        core.finish_start(None)
        sent(core)
    core.handle_bytes(STOP + START.replace(b"\x08\x01", b"\x08\x05", 1), now=0.0)
    # TunnelMessage{rpc{response_to 5}, start{error_message "stopped"}}
    refused = bytes.fromhex("0000000f 0a021005 2a091207".replace(" ", "")) + b"stopped"
    assert sent(core) == refused
    core.finish_stop()
    assert sent(core) == STOPPED
    events = [type(event) for event in tunnel_events(core)]
    assert events.count(StartRequested) == is_running


def test_the_full_set_is_answered_without_the_program() -> None:
    core = open_tunnel()
    core.upsert([pb.Workspace(id=b"w", name="home")], [make_agent(b"1", "a")])
    updates(core)
    core.handle_bytes(bytes.fromhex("000000060a0208011200"), now=0.0)
    (update,) = updates(core)
    assert [workspace.name for workspace in update.upserted_workspaces] == ["home"]
    assert [agent.name for agent in update.upserted_agents] == ["a"]


def test_changes_before_the_header_wait() -> None:
    core = TunnelCore(now=0.0)
    core.upsert(agents=[make_agent(b"1", "a")])
    core.delete(workspace_ids=[b"none"])
    assert core.poll_transmit() is None
    core.handle_bytes(b"codervpn 1.3 manager\n", now=0.0)
    assert core.poll_transmit() == b"codervpn 1.3 tunnel\n"
    assert len(updates(core)) == 1


def test_peers_are_bounded() -> None:
    core = open_tunnel()
    agents = [make_agent(n.to_bytes(4, "big"), "a") for n in range(MAX_PEERS + 1)]
    with pytest.raises(UsageError):
        core.upsert(agents=agents)
    core.upsert(agents=agents[1:])  # the refused ones took no room
    core.upsert(agents=agents[1:])
    with pytest.raises(UsageError):
        core.upsert(agents=agents[:1])
