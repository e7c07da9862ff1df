"""The request log's thread: answers never wait for it, and what waits for a database that is away is bounded."""

from __future__ import annotations

import queue
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError

from tasks.errors import GatehouseError
from tasks.serving.log.records import Entry
from tasks.serving.log.store import open_store, unusable

BATCH = 500
RETRY_SECONDS = 0.5
HOPELESS = (DataError, IntegrityError, ProgrammingError)  # these entries would fail again
LEAP = 60.0  # seconds by which a wall clock may leave the monotonic one before it counts as set


class SteadyClock:
    """The wall clock, believed for retention only once it has run evenly for a while.

    A machine that wakes in 2040 would otherwise delete every entry at once, and a log is evidence.
    """

    def __init__(
        self, settle: float, wall: Callable[[], float] = time.time, even: Callable[[], float] = time.monotonic
    ) -> None:
        self._settle, self._wall, self._even = settle, wall, even
        self._since = (wall(), even())

    def now(self) -> float | None:
        """Seconds since 1970, or None within `settle` seconds of the start and of every leap."""
        wall, even = self._wall(), self._even()
        if abs((wall - self._since[0]) - (even - self._since[1])) > LEAP:
            self._since = (wall, even)
        return wall if even - self._since[1] >= self._settle else None


class RequestLog:
    """Open (or make) the log at a path or URL and write to it in the background until `close`.

    Entries that cannot be written wait until the database takes them again; an interrupted commit is not repeated.

    Args:
        max_rows: at most so many requests, and so many images, are kept; the oldest go first.
        max_days: older ones go too.
        max_waiting: rows that may wait to be written; what comes on top is dropped and counted.
        mask: what is kept of an entry (see tasks.serving.log.privacy); by default all of it.
        clock: tells what is old.

    Raises:
        GatehouseError: the log cannot be opened.
    """

    def __init__(
        self,
        where: str | Path,
        *,
        max_rows: int,
        max_days: float,
        max_waiting: int = 20_000,
        mask: Callable[[Entry], Entry] = replace,
        clock: SteadyClock | None = None,
    ) -> None:
        self._store = open_store(where)
        self._max_rows, self._max_days, self._max_waiting = max_rows, max_days, max_waiting
        self._mask, self._clock = mask, clock or SteadyClock(3600.0)
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = self._dropped = self._unsaved_drops = self._number = 0
        self._writer = f"writer {uuid.uuid4().hex}"
        self._away = False
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._store.prepare()
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
        """Write what waits, then stop; what no database took within the timeout is dropped and counted."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout + 10.0)

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
            entries = [self._mask(e) for e in batch if e is not None]
            if entries or (stopping and self._unsaved_drops):
                self._number += 1
                self._deliver(entries)
            with self._lock:
                self._waiting -= sum(e.rows for e in entries)
        if self._unsaved_drops:
            self._say(f"is closed; {self._unsaved_drops} requests that were dropped could not be counted in it")
        try:
            self._store.forget(self._writer)
        except (SQLAlchemyError, sqlite3.Error) as error:
            self._say(f"was not closed in order: {unusable(self._store.name, error)}")
        self._store.engine.dispose()

    def _deliver(self, batch: list[Entry]) -> None:
        """Write a batch, however long the database is away; only the deadline of `close` and hopeless entries drop."""
        with self._lock:
            drops = self._unsaved_drops
        while problem := self._write(batch, drops):
            hopeless = isinstance(problem, HOPELESS)
            if not self._away:
                fate = "these are dropped" if hopeless else "they wait"
                self._say(f"does not take entries, {fate}: {unusable(self._store.name, problem)}")
            self._away = not hopeless
            if hopeless or time.monotonic() >= self._deadline:
                with self._lock:
                    self._count_drops(len(batch))
                return
            # Closing ends the wait, but not the tries.
            time.sleep(RETRY_SECONDS / 5) if self._closing.is_set() else self._closing.wait(RETRY_SECONDS)
        if self._away:
            self._away = False
            self._say(f"takes entries again; {self.dropped} requests were dropped so far")

    def _write(self, batch: list[Entry], drops: int) -> Exception | None:
        """What kept the batch from being written, or None."""
        try:
            if self._store.path and not self._store.path.exists():  # somebody removed it while we run
                self._store.prepare()
            self._store.write(batch, drops, writer=self._writer, number=self._number)
            with self._lock:
                self._unsaved_drops -= drops
        except (SQLAlchemyError, sqlite3.Error, GatehouseError) as error:
            return error
        try:
            self._store.prune(self._max_rows, self._clock.now(), self._max_days)
        except (SQLAlchemyError, sqlite3.Error) as error:
            self._say(f"was not pruned, and will be with the next entries: {unusable(self._store.name, error)}")
        return None

    def _say(self, what: str) -> None:
        print(f"The request log {what}", file=sys.stderr)
