import sqlite3
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import make_address
from ginnel.storage.state import (
    DATABASE_FILE,
    MAX_ENDPOINTS,
    MAX_EVENTS,
    MAX_NODES,
    KnownNode,
    PastEvent,
    open_state,
)


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


def test_a_folder_that_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure):
        open_state(tmp_path / "missing")
