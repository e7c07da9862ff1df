"""The request log: SQLite, written by a thread of its own so that it never delays an answer.

What waits to be written is bounded, and so is what is kept; what had to be dropped is counted.
Images themselves are not kept: a digest, a label, a rounded score and a few figures are (see `statistics`).
"""

from __future__ import annotations

import os
import queue
import sqlite3
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tasks.errors import GatehouseError
from tasks.serving.statistics import STATISTICS

SCHEMA_VERSION = 1
BATCH = 500
DAY = 86_400.0
REQUEST_COLUMNS = ("id", "time", "account", "status", "error", "model", "count", "latency_ms")
IMAGE_COLUMNS = ("id", "request", "sha256", "label", "score", *STATISTICS, "time", "account", "model")
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, account TEXT NOT NULL, status INTEGER NOT NULL,
    error TEXT NOT NULL, model TEXT NOT NULL, count INTEGER NOT NULL, latency_ms REAL NOT NULL);
CREATE INDEX IF NOT EXISTS requests_time ON requests (time);
CREATE TABLE IF NOT EXISTS images (
    id INTEGER PRIMARY KEY, request INTEGER NOT NULL REFERENCES requests (id) ON DELETE CASCADE,
    sha256 TEXT NOT NULL, label TEXT NOT NULL, score REAL NOT NULL,
    {", ".join(f"{s} REAL NOT NULL" for s in STATISTICS)});
CREATE INDEX IF NOT EXISTS images_request ON images (request);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""


@dataclass(frozen=True)
class ImageEntry:
    sha256: str  # of the image as the model sees it
    label: str
    score: float
    statistics: tuple[float, ...]  # in the order of STATISTICS


@dataclass(frozen=True)
class Entry:
    """One request. `error` is empty for an answer, otherwise the code of the refusal."""

    time: float  # seconds since 1970
    account: str
    status: int
    error: str
    model: str  # sha256 of the weights that answered
    latency_ms: float
    images: tuple[ImageEntry, ...] = ()

    @property
    def rows(self) -> int:
        return 1 + len(self.images)


class RequestLog:
    """Open (or make) the log at `path` and write to it in the background until `close`.

    Args:
        max_rows: at most so many requests, and so many images, are kept; the oldest go first.
        max_days: older ones go too.
        max_waiting: rows that may wait to be written; what comes on top is dropped and counted.
    """

    def __init__(self, path: Path, *, max_rows: int, max_days: float, max_waiting: int = 20_000) -> None:
        self.path = path
        self._max_rows, self._max_days, self._max_waiting = max_rows, max_days, max_waiting
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._dropped = 0
        self._unsaved_drops = 0
        self._complained = False
        _prepare(path)
        self._thread = threading.Thread(target=self._write_all, name="request-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many requests this process could not keep."""
        with self._lock:
            return self._dropped

    def put(self, entry: Entry) -> bool:
        """Hand an entry over without waiting; False where it was dropped."""
        with self._lock:
            if self._waiting + entry.rows > self._max_waiting:
                self._count_drops(1)
                return False
            self._waiting += entry.rows
        self._queue.put(entry)
        return True

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits, then stop."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _count_drops(self, n: int) -> None:
        self._dropped += n
        self._unsaved_drops += n

    def _write_all(self) -> None:
        stopping = False
        while not stopping:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():  # no other thread takes from the queue
                batch.append(self._queue.get())
            stopping = None in batch
            entries = [e for e in batch if e is not None]
            if entries or (stopping and self._unsaved_drops):
                self._write(entries)
            with self._lock:
                self._waiting -= sum(e.rows for e in entries)

    def _write(self, batch: list[Entry]) -> None:
        """One transaction; a database that does not take it costs these entries, never the service."""
        with self._lock:
            drops = self._unsaved_drops
        try:
            if not self.path.exists():  # somebody removed it while we run
                _prepare(self.path)
            with closing(_connect(self.path)) as connection, connection:
                _insert(connection, batch, drops)
                _prune(connection, self._max_rows, time.time() - self._max_days * DAY)
        except (sqlite3.Error, GatehouseError) as error:
            with self._lock:
                self._count_drops(len(batch))
            if not self._complained:
                self._complained = True
                print(f"Request log {self.path} cannot be written ({error}); requests go unlogged.", file=sys.stderr)
            return
        self._complained = False
        with self._lock:
            self._unsaved_drops -= drops


def _prepare(path: Path) -> None:
    """Make the file readable by its owner alone (SQLite gives its side files the same rights), then the tables."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        connection = _connect(path)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    except OSError as error:
        raise GatehouseError(
            f"Request log {path} cannot be opened: {error.strerror}; set serving.log to a place that can be written."
        ) from error
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            _check_kind(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.executescript(SCHEMA)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    finally:
        connection.close()


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
        raise _unusable(path, "it is a database of another kind")


def _unusable(path: Path, why: object) -> GatehouseError:
    return GatehouseError(f"Request log {path} cannot be used ({why}); move it away or set serving.log elsewhere.")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=5.0)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _insert(connection: sqlite3.Connection, batch: list[Entry], drops: int) -> None:
    marks = ", ".join("?" * (4 + len(STATISTICS)))
    columns = ", ".join(("request", "sha256", "label", "score", *STATISTICS))
    for e in batch:
        row = (e.time, e.account, e.status, e.error, e.model, len(e.images), e.latency_ms)
        request = connection.execute(
            "INSERT INTO requests (time, account, status, error, model, count, latency_ms) VALUES (?,?,?,?,?,?,?)", row
        ).lastrowid
        connection.executemany(
            f"INSERT INTO images ({columns}) VALUES ({marks})",  # noqa: S608  the names are this module's own
            [(request, i.sha256, i.label, i.score, *i.statistics) for i in e.images],
        )
    connection.execute(
        "INSERT INTO counters VALUES ('dropped', ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (drops,),
    )


def _prune(connection: sqlite3.Connection, max_rows: int, oldest: float) -> None:
    connection.execute("DELETE FROM requests WHERE time < ?", (oldest,))
    for table in ("requests", "images"):
        connection.execute(f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?", (max_rows,))  # noqa: S608


@dataclass(frozen=True)
class History:
    """What a log holds from a moment on. `requests` has the columns of that table; `images` those of its own and the
    request's time, account and model; `dropped` counts requests that were never written, since the log began."""

    requests: pd.DataFrame
    images: pd.DataFrame
    dropped: int


def read_history(path: Path, since: float) -> History:
    """Read the log while it may be written; a log that does not exist yet is an empty one.

    Args:
        since: seconds since 1970.
    """
    if not path.exists():
        return History(pd.DataFrame(columns=list(REQUEST_COLUMNS)), pd.DataFrame(columns=list(IMAGE_COLUMNS)), 0)
    images = (
        "SELECT i.*, r.time, r.account, r.model FROM images i JOIN requests r ON r.id = i.request "
        "WHERE r.time >= ? ORDER BY i.id"
    )
    try:
        with closing(_connect(path)) as connection:
            _check_kind(connection, path)
            return History(
                pd.read_sql_query("SELECT * FROM requests WHERE time >= ? ORDER BY id", connection, params=(since,)),
                pd.read_sql_query(images, connection, params=(since,)),
                connection.execute("SELECT coalesce(sum(value), 0) FROM counters WHERE name = 'dropped'").fetchone()[0],
            )
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise _unusable(path, error) from error
