"""The status board: what changed is told once."""

from ginnel.base.types import Address
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.peer.status import (
    ConnStatus,
    PeerState,
    Stage,
    StatusBoard,
    StatusRecorder,
    WgStats,
)

LOCAL = make_host(Address("192.168.1.2", 7))
REMOTE = make_remote(CandidateKind.PRFLX, Address("203.0.113.1", 8), 5, "f")


def test_a_change_is_told_once() -> None:
    board = StatusBoard(b"k" * 32)
    assert board.take_change() is None
    board.show(1.0, ConnStatus.CONNECTING, Stage.OFFERING)
    state = board.take_change()
    assert state is not None
    assert (state.status, state.changed_at) == (ConnStatus.CONNECTING, 1.0)
    assert board.take_change() is None
    board.show(2.0, latency_s=0.5)
    assert board.state.changed_at == 1.0


def test_a_path_is_shown_and_forgotten() -> None:
    board = StatusBoard(b"k" * 32)
    board.show(1.0, last_handshake_at=1.0)
    board.show_path(1.0, (LOCAL, REMOTE))
    state = board.state
    assert (state.local_kind, state.remote_kind) == ("host", "prflx")
    assert state.remote_address == REMOTE.address
    assert (state.direct, state.relayed) == (True, False)
    board.reset(2.0, "why")
    assert board.state.status is ConnStatus.DISCONNECTED
    assert board.state.remote_address is None
    assert (board.state.reason, board.state.last_handshake_at) == ("why", 1.0)


def test_a_relay_is_shown_as_such() -> None:
    board = StatusBoard(b"k" * 32)
    relay = make_remote(CandidateKind.RELAY, Address("203.0.113.1", 8), 5, "f")
    board.show_path(1.0, (LOCAL, relay))
    assert (board.state.direct, board.state.relayed) == (True, True)


def test_the_recorder_keeps_what_belongs_to_known_peers() -> None:
    recorder, key = StatusRecorder(), b"k" * 32
    assert not recorder.update_peer_state(PeerState(key))
    assert not recorder.update_wireguard_stats(key, WgStats())
    recorder.add_peer(key)
    board = StatusBoard(key, "100.64.7.1")
    board.show_path(1.0, (LOCAL, REMOTE))
    assert recorder.update_peer_state(board.state)
    assert recorder.update_latency(key, 0.25)
    assert recorder.update_wireguard_stats(key, WgStats(9.0, 1, 2))
    recorder.add_peer(key)
    state = recorder.peer_state(key)
    assert state is not None
    assert (state.overlay_ip, state.latency_s, state.remote_address) == (
        "100.64.7.1",
        0.25,
        REMOTE.address,
    )
    assert recorder.wireguard_stats(key) == WgStats(9.0, 1, 2)
    assert recorder.peers() == (state,)
    assert recorder.remove_peer(key)
    assert not recorder.remove_peer(key)
    assert not recorder.update_latency(key, 1.0)
