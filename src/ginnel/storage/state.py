"""The tunnel's database: certificates, known nodes, endpoints that worked, events.

Everything in it can be had again from peers, so a damaged or older database is set aside and a new
one begun. One that only can't be used now (a full disk, a lock, a wrong owner) stays where it is.
Trust is not in it (`trust.py`).

Invariant: after an error the database holds what it held before.

Source: DESIGN, "State on disk".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address, make_address

DATABASE_FILE = "state.db"
SCHEMA = 1
MAX_OBJECTS = 16_384  # certificates and the like
MAX_NODES = 512  # nodes to start from
MAX_ENDPOINTS = 4  # endpoints of one peer that worked
MAX_EVENTS = 5_000
BUSY_TIMEOUT = 5.0  # seconds to wait for another reader

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "is the disk full or failing?",
    sqlite3.SQLITE_BUSY: "end the program that holds it",
    sqlite3.SQLITE_LOCKED: "end the program that holds it",
    sqlite3.SQLITE_CANTOPEN: "folder and file must be the tunnel's user's, and the disk not full",
    sqlite3.SQLITE_READONLY: "folder and file must be the tunnel's user's, and the disk writable",
}

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


class _Damaged(Exception):
    """The file is no database of ours, or not whole."""


class StateDatabase:
    """One open database; open it with `open_state`.

    Every method but `close` raises SystemFailure if the file can't be read or written now.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, set_aside: Path | None) -> None:
        self.set_aside = set_aside
        self._path = path
        self._db = connection

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def save_objects(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        """Make these (hash, raw) all the objects there are."""
        wanted = dict(list(objects)[:MAX_OBJECTS])
        with self._writing():
            stored = {row[0] for row in self._db.execute("SELECT hash FROM objects")}
            gone = [(digest,) for digest in sorted(stored - wanted.keys())]
            new = [(digest, raw) for digest, raw in wanted.items() if digest not in stored]
            self._db.executemany("DELETE FROM objects WHERE hash = ?", gone)
            self._db.executemany("INSERT INTO objects VALUES (?, ?)", new)

    def add_object(self, digest: bytes, raw: bytes) -> None:
        """Add one object."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (digest, raw))

    def objects(self) -> list[bytes]:
        """Return the raw objects."""
        return [row[0] for row in self._read("SELECT raw FROM objects ORDER BY hash")]

    def see_node(self, node: KnownNode) -> None:
        """Remember a node that answered; the ones not seen for longest go."""
        with self._writing():
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
        rows = self._read("SELECT node_id, record, seen_at FROM nodes ORDER BY seen_at DESC")
        return [KnownNode(*row) for row in rows]

    def endpoint_worked(self, member_id: bytes, address: Address, *, at: float) -> None:
        """Remember where a peer was reached."""
        with self._writing():
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
        rows = self._read(
            "SELECT ip, port FROM endpoints WHERE member_id = ? ORDER BY worked_at DESC",
            member_id,
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
        with self._writing():
            cursor = self._db.execute(
                "INSERT INTO events (at, kind, text) VALUES (?, ?, ?)",
                (event.at, event.kind, event.text),
            )
            last = cursor.lastrowid or 0
            self._db.execute("DELETE FROM events WHERE id <= ?", (last - MAX_EVENTS,))

    def events(self, limit: int = 100) -> list[PastEvent]:
        """Return the last events, newest first."""
        rows = self._read("SELECT at, kind, text FROM events ORDER BY id DESC LIMIT ?", limit)
        return [PastEvent(*row) for row in rows]

    def _read(self, query: str, *values: bytes | int) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise SystemFailure(_why_unusable(self._path, error)) from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write all that is done inside, or nothing."""
        try:
            with self._db:
                yield
        except sqlite3.Error as error:
            raise SystemFailure(_why_unusable(self._path, error)) from None


def open_state(folder: Path) -> StateDatabase:
    """Open the database of a folder; one that is damaged or of another schema is set aside.

    `set_aside` of the result names the file that was put away, to be reported.

    Raises:
        SystemFailure: it can't be used now; the text names the remedy.
    """
    path = folder / DATABASE_FILE
    try:
        try:
            return StateDatabase(path, _open(path), None)
        except _Damaged:
            aside = _put_aside(path)
        return StateDatabase(path, _open(path), aside)
    except (sqlite3.Error, OSError, _Damaged) as error:
        raise SystemFailure(_why_unusable(path, error)) from None


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT)
    try:
        path.chmod(0o600)
        _prepare(connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error) and _code(error) in _DAMAGE:
            raise _Damaged(str(error)) from None
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    elif version != SCHEMA:
        raise _Damaged(f"schema {version}")
    [check] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if check != "ok":
        raise _Damaged("pages that don't fit together")


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code: extended ones (IOERR_WRITE, say) have it in the low byte."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _why_unusable(path: Path, error: Exception) -> str:
    if isinstance(error, sqlite3.Error):
        remedy = _REMEDIES.get(_code(error))
        return f"{path} can't be used ({error})" + (f": {remedy}" if remedy else "")
    reason = error.strerror if isinstance(error, OSError) else error
    return f"{path} can't be used or set aside: {reason}"


def _put_aside(path: Path) -> Path | None:
    """Rename the database and what belongs to it; an earlier one put aside is replaced.

    Returns None for one that held nothing: an earlier one put aside may be worth more.
    """
    aside = path.with_suffix(".broken") if path.stat().st_size else None
    if aside is None:
        path.unlink()
    else:
        path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
