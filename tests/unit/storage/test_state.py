import sqlite3
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import make_address
from ginnel.storage import state as state_module
from ginnel.storage.state import (
    DATABASE_FILE,
    MAX_ENDPOINTS,
    MAX_EVENTS,
    MAX_NODES,
    KnownNode,
    PastEvent,
    open_state,
)
from support.full_disk import full_disk


def test_everything_comes_back(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    state.save_objects([(b"h1", b"one"), (b"h2", b"two")])
    state.save_objects([(b"h2", b"two")])
    state.add_object(b"h3", b"three")
    state.see_node(KnownNode(b"n", b"enr", 5.0))
    state.endpoint_worked(b"m", make_address("192.0.2.1", 7), at=1.0)
    state.add_event(PastEvent(1.0, "peer", "connected"))
    state.close()
    state = open_state(tmp_path)
    assert state.set_aside is None
    assert state.objects() == [b"two", b"three"]
    assert state.nodes() == [KnownNode(b"n", b"enr", 5.0)]
    assert state.endpoints(b"m") == [make_address("192.0.2.1", 7)]
    assert state.events() == [PastEvent(1.0, "peer", "connected")]
    state.close()
    assert (tmp_path / DATABASE_FILE).stat().st_mode & 0o777 == 0o600


def test_nodes_and_endpoints_are_bounded(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    for number in range(MAX_NODES + 5):
        state.see_node(KnownNode(number.to_bytes(4, "big"), b"enr", float(number)))
    assert len(state.nodes()) == MAX_NODES
    assert state.nodes()[0].seen_at == MAX_NODES + 4
    for number in range(MAX_ENDPOINTS + 3):
        state.endpoint_worked(b"m", make_address("192.0.2.1", 1000 + number), at=float(number))
    ports = [address.port for address in state.endpoints(b"m")]
    assert ports == [1006, 1005, 1004, 1003]
    state.close()


def test_events_are_bounded(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    for number in range(MAX_EVENTS + 3):
        state.add_event(PastEvent(float(number), "k", "t"))
    assert len(state.events(2 * MAX_EVENTS)) == MAX_EVENTS
    state.close()


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\x00"])
def test_a_broken_database_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(content)
    state = open_state(tmp_path)
    assert state.set_aside is not None
    assert state.set_aside.read_bytes() == content
    assert state.objects() == []
    state.close()


def test_another_schema_is_set_aside(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / DATABASE_FILE)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    state = open_state(tmp_path)
    assert state.set_aside is not None
    state.close()


def filled(folder: Path) -> None:
    state = open_state(folder)
    state.save_objects([(b"h1", b"one")])
    state.close()


def test_a_full_disk_at_the_start_costs_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    for _ in range(2):
        with full_disk(), pytest.raises(SystemFailure, match="disk"):
            open_state(tmp_path)
    state = open_state(tmp_path)
    assert state.set_aside is None
    assert state.objects() == [b"one"]
    state.close()
    assert not list(tmp_path.glob("*.broken"))


def test_a_full_disk_at_the_first_start_leaves_what_was_put_aside(tmp_path: Path) -> None:
    (tmp_path / "state.broken").write_bytes(b"worth a look")
    for _ in range(2):
        with full_disk(), pytest.raises(SystemFailure, match="disk"):
            open_state(tmp_path)
    assert (tmp_path / "state.broken").read_bytes() == b"worth a look"


def test_a_lock_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "BUSY_TIMEOUT", 0.0)
    filled(tmp_path)
    other = sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SystemFailure, match="end the program"):
        open_state(tmp_path)
    other.close()
    state = open_state(tmp_path)
    assert state.objects() == [b"one"]
    state.close()


def test_writes_to_a_full_disk_fail_whole_and_can_be_repeated(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    state.save_objects([(b"h1", b"one")])
    with full_disk():
        for write in (
            lambda: state.add_event(PastEvent(1.0, "peer", "connected")),
            lambda: state.save_objects([(b"h2", b"two")]),
            lambda: state.see_node(KnownNode(b"n", b"enr", 5.0)),
            lambda: state.endpoint_worked(b"m", make_address("192.0.2.1", 7), at=1.0),
        ):
            with pytest.raises(SystemFailure, match="disk"):
                write()
    assert state.objects() == [b"one"]
    state.add_event(PastEvent(1.0, "peer", "connected"))
    assert len(state.events()) == 1
    state.close()


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    many = [(number.to_bytes(4, "big"), b"raw" * 100) for number in range(500)]
    state.save_objects(many)
    with full_disk():
        state.save_objects(many)  # nothing to write
    size = (tmp_path / "state.db-wal").stat().st_size
    state.save_objects([*many[1:], (b"new", b"one more")])
    assert (tmp_path / "state.db-wal").stat().st_size - size < 40_000
    assert state.objects() == [*(raw for _, raw in many[1:]), b"one more"]
    state.close()


def test_a_folder_that_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure):
        open_state(tmp_path / "missing")
