"""The request log's thread: answers never wait for it, and what waits for a database that is away is bounded."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError

from tasks.errors import GatehouseError
from tasks.serving.log.journal import Batch, Journal
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
        journal: folder that keeps what waits through a kill of the process; None: memory alone.
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
        journal: Path | None = None,
        mask: Callable[[Entry], Entry] = replace,
        clock: SteadyClock | None = None,
    ) -> None:
        self._store = open_store(where)
        self._max_rows, self._max_days, self._max_waiting = max_rows, max_days, max_waiting
        self._mask, self._clock = mask, clock or SteadyClock(3600.0)
        self._wake = threading.Condition()
        self._journal = Journal(journal)
        self._full: deque[Batch] = deque()
        self._filling = self._journal.batch()
        self._waiting = self._dropped = self._unsaved_drops = 0
        self._unkept = False  # the journal could not take an entry, and that was said
        self._away = self._counted = False
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._store.prepare()
        self._thread = threading.Thread(target=self._write_all, name="request-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many requests this process could not keep."""
        with self._wake:
            return self._dropped

    def put(self, entry: Entry) -> bool:
        """Hand an entry over without waiting for the database; False where it was dropped."""
        entry = self._mask(entry)
        with self._wake:
            if self._waiting + entry.rows > self._max_waiting:
                self._count_drops(1)
                return False
            self._waiting += entry.rows
            try:
                self._filling.add(entry)
            except OSError as error:
                if not self._unkept:
                    self._unkept = True
                    self._say(f"keeps what waits in memory alone ({error})")
            if len(self._filling.entries) >= BATCH:
                self._full.append(self._filling)
                self._filling = self._journal.batch()
            self._wake.notify()
        return True

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits, then stop. What no database took within the timeout is left in the journal for the next
        start, or dropped and counted where there is none."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        with self._wake:
            self._wake.notify()
        self._thread.join(timeout + 10.0)

    def _count_drops(self, n: int) -> None:
        self._dropped += n
        self._unsaved_drops += n

    def _write_all(self) -> None:
        for batches in self._journal.left_behind():
            for batch in batches:
                if batch.torn:
                    self._say(f"has lost {batch.torn} entries that were being noted when the process was killed")
                self._deliver(batch)
            self._forget(batches)
        kept = []
        while (following := self._next()) is not None:
            self._deliver(following)
            if following.waits:
                kept.append(following)
            with self._wake:
                self._waiting -= sum(e.rows for e in following.entries)
        if self._unsaved_drops:
            self._say(f"is closed; {self._unsaved_drops} requests that were dropped could not be counted in it")
        self._forget([*kept, self._filling])
        self._journal.close()
        self._store.engine.dispose()

    def _next(self) -> Batch | None:
        """The oldest batch that has entries, or drops to count at the end; None once the log is closed and empty."""
        with self._wake:
            while not (self._full or self._filling.entries or self._closing.is_set()):
                self._wake.wait()
            if self._full:
                return self._full.popleft()
            if not self._filling.entries and (self._counted or not self._unsaved_drops):
                return None
            self._counted = self._closing.is_set()
            batch, self._filling = self._filling, self._journal.batch()
            return batch

    def _forget(self, batches: Sequence[Batch]) -> None:
        """A writer whose batches are all written needs its number no more."""
        if any(b.waits for b in batches):
            return
        try:
            self._store.forget(batches[0].writer)
        except (SQLAlchemyError, sqlite3.Error) as error:
            self._say(f"was not closed in order: {unusable(self._store.name, error)}")

    def _deliver(self, batch: Batch) -> None:
        """Write a batch, however long the database is away; only the deadline of `close` and hopeless entries drop."""
        with self._wake:
            self._count_drops(batch.torn)
            drops = self._unsaved_drops
        while problem := self._write(batch, drops):
            hopeless = isinstance(problem, HOPELESS)
            if not self._away:
                fate = "these are dropped" if hopeless else "they wait"
                self._say(f"does not take entries, {fate}: {unusable(self._store.name, problem)}")
            self._away = not hopeless
            if hopeless or time.monotonic() >= self._deadline:
                if hopeless or not batch.waits:
                    batch.done()
                    with self._wake:
                        self._count_drops(len(batch.entries))
                return
            # Closing ends the wait, but not the tries.
            time.sleep(RETRY_SECONDS / 5) if self._closing.is_set() else self._closing.wait(RETRY_SECONDS)
        batch.done()
        if self._away:
            self._away = False
            self._say(f"takes entries again; {self.dropped} requests were dropped so far")

    def _write(self, batch: Batch, drops: int) -> Exception | None:
        """What kept the batch from being written, or None."""
        try:
            if self._store.path and not self._store.path.exists():  # somebody removed it while we run
                self._store.prepare()
            self._store.write(batch.entries, drops, writer=batch.writer, number=batch.number)
            with self._wake:
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
