"""The tunnel's database: certificates, known nodes, endpoints that worked, events.

Everything in it can be had again from peers, so a broken or older database is set aside and a new
one begun. Trust is not in it (`trust.py`).

Source: DESIGN, "State on disk".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address, make_address

DATABASE_FILE = "state.db"
SCHEMA = 1
MAX_OBJECTS = 16_384  # certificates and the like
MAX_NODES = 512  # nodes to start from
MAX_ENDPOINTS = 4  # endpoints of one peer that worked
MAX_EVENTS = 5_000
BUSY_TIMEOUT = 5.0  # seconds to wait for another reader

_TABLES = """
CREATE TABLE objects (hash BLOB PRIMARY KEY, raw BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (node_id BLOB PRIMARY KEY, record BLOB NOT NULL, seen_at REAL NOT NULL)
    WITHOUT ROWID;
CREATE TABLE endpoints (
    member_id BLOB NOT NULL, ip TEXT NOT NULL, port INTEGER NOT NULL, worked_at REAL NOT NULL,
    PRIMARY KEY (member_id, ip, port)) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node of the DHT, as its record was last seen."""

    node_id: bytes
    record: bytes
    seen_at: float


@dataclass(frozen=True, slots=True)
class PastEvent:
    """Something that happened, for `status` and for finding faults."""

    at: float
    kind: str
    text: str


class StateDatabase:
    """One open database; open it with `open_state`."""

    def __init__(self, connection: sqlite3.Connection, set_aside: Path | None) -> None:
        self.set_aside = set_aside
        self._db = connection

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def save_objects(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        """Make these (hash, raw) all the objects there are."""
        rows = list(objects)[:MAX_OBJECTS]
        with self._db:
            self._db.execute("DELETE FROM objects")
            self._db.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?)", rows)

    def add_object(self, digest: bytes, raw: bytes) -> None:
        """Add one object."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (digest, raw))

    def objects(self) -> list[bytes]:
        """Return the raw objects."""
        return [row[0] for row in self._db.execute("SELECT raw FROM objects ORDER BY hash")]

    def see_node(self, node: KnownNode) -> None:
        """Remember a node that answered; the ones not seen for longest go."""
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)",
                (node.node_id, node.record, node.seen_at),
            )
            self._db.execute(
                "DELETE FROM nodes WHERE node_id NOT IN "
                "(SELECT node_id FROM nodes ORDER BY seen_at DESC LIMIT ?)",
                (MAX_NODES,),
            )

    def nodes(self) -> list[KnownNode]:
        """Return the known nodes, seen last first."""
        rows = self._db.execute("SELECT node_id, record, seen_at FROM nodes ORDER BY seen_at DESC")
        return [KnownNode(*row) for row in rows]

    def endpoint_worked(self, member_id: bytes, address: Address, *, at: float) -> None:
        """Remember where a peer was reached."""
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?, ?)",
                (member_id, address.ip, address.port, at),
            )
            self._db.execute(
                "DELETE FROM endpoints WHERE member_id = ? AND (ip, port) NOT IN "
                "(SELECT ip, port FROM endpoints WHERE member_id = ? "
                "ORDER BY worked_at DESC LIMIT ?)",
                (member_id, member_id, MAX_ENDPOINTS),
            )

    def endpoints(self, member_id: bytes) -> list[Address]:
        """Return where a peer was reached, last first."""
        rows = self._db.execute(
            "SELECT ip, port FROM endpoints WHERE member_id = ? ORDER BY worked_at DESC",
            (member_id,),
        )
        found: list[Address] = []
        for ip, port in rows:
            try:
                found.append(make_address(ip, port))
            except UsageError:
                continue
        return found

    def add_event(self, event: PastEvent) -> None:
        """Append to the journal; the oldest go."""
        with self._db:
            cursor = self._db.execute(
                "INSERT INTO events (at, kind, text) VALUES (?, ?, ?)",
                (event.at, event.kind, event.text),
            )
            last = cursor.lastrowid or 0
            self._db.execute("DELETE FROM events WHERE id <= ?", (last - MAX_EVENTS,))

    def events(self, limit: int = 100) -> list[PastEvent]:
        """Return the last events, newest first."""
        rows = self._db.execute(
            "SELECT at, kind, text FROM events ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [PastEvent(*row) for row in rows]


def open_state(folder: Path) -> StateDatabase:
    """Open the database of a folder; one that is broken or of another schema is set aside.

    `set_aside` of the result names the file that was put away, to be reported.

    Raises:
        SystemFailure: no database can be made there.
    """
    path = folder / DATABASE_FILE
    try:
        return StateDatabase(_open(path), None)
    except sqlite3.DatabaseError:
        aside = _put_aside(path)
    try:
        return StateDatabase(_open(path), aside)
    except sqlite3.DatabaseError as error:
        raise SystemFailure(f"{path} can't be made: {error}") from None


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT)
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
        elif version != SCHEMA:
            raise sqlite3.DatabaseError(f"schema {version}")
        [check] = connection.execute("PRAGMA quick_check(1)").fetchone()
        if check != "ok":
            raise sqlite3.DatabaseError("damaged")
    except (sqlite3.Error, OSError):
        connection.close()
        raise
    return connection


def _put_aside(path: Path) -> Path:
    """Rename the database and what belongs to it; an earlier one put aside is replaced."""
    aside = path.with_suffix(".broken")
    try:
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise SystemFailure(f"{path} can't be opened or set aside: {error.strerror}") from None
    return aside
