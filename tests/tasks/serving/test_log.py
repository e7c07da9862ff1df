"""The request log: never waits, never grows without bound, survives what happens to its file."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from dataclasses import replace

import pytest

from tasks.errors import GatehouseError
from tasks.serving.log import Entry, ImageEntry, RequestLog, read_history
from tasks.serving.statistics import STATISTICS

IMAGE = ImageEntry("cd" * 32, "covid", 0.93, tuple(0.1 * i for i in range(len(STATISTICS))))


def entry(images: int = 1, when: float | None = None) -> Entry:
    return Entry(time.time() if when is None else when, "10.0.0.1", 200, "", "ab" * 32, 1.5, (IMAGE,) * images)


def write(path, entries, **limits):
    log = RequestLog(path, **{"max_rows": 1000, "max_days": 30, **limits})
    for e in entries:
        assert log.put(e)
    log.close()
    return log


def test_everything_that_waits_is_written_on_close(tmp_path):
    path = tmp_path / "new" / "log.db"
    write(path, [entry(3), replace(entry(0), status=413, error="BAD_REQUEST")] * 600, max_rows=5000)
    history = read_history(path, since=0)
    assert len(history.requests) == 1200
    assert len(history.images) == 1800
    assert history.images.iloc[0][list(STATISTICS)].tolist() == pytest.approx(IMAGE.statistics)
    assert history.images["account"].eq("10.0.0.1").all()
    assert len(read_history(path, since=time.time() + 60).requests) == 0


def test_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "log.db"
    path.touch(mode=0o644)
    log = RequestLog(path, max_rows=10, max_days=1)
    with sqlite3.connect(path) as reader:
        log.put(entry())
        log.close()
        reader.execute("SELECT count(*) FROM requests").fetchone()
        files = list(tmp_path.iterdir())
        assert len(files) > 1  # the write-ahead log and its index lie beside it
        assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}


def test_rows_are_capped_and_the_oldest_go_first(tmp_path):
    path = tmp_path / "log.db"
    write(path, [entry(2) for _ in range(300)], max_rows=100)
    write(path, [replace(entry(2), account="last")], max_rows=100)
    history = read_history(path, since=0)
    assert len(history.images) == 100
    assert len(history.requests) <= 100
    assert history.requests["account"].iloc[-1] == "last"


def test_old_entries_go(tmp_path):
    path = tmp_path / "log.db"
    write(path, [entry(1, when=time.time() - 40 * 86_400), entry(1)], max_days=30)
    history = read_history(path, since=0)
    assert len(history.requests) == len(history.images) == 1


def test_a_full_queue_drops_and_counts_without_waiting(tmp_path):
    path = tmp_path / "log.db"
    log = RequestLog(path, max_rows=1000, max_days=30, max_waiting=10)
    with sqlite3.connect(path) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        started = time.perf_counter()
        kept = sum(log.put(entry(1)) for _ in range(200))
        assert time.perf_counter() - started < 1
        assert kept == 5  # of two rows each; none can be written while the file is locked
        assert log.dropped == 195
        blocker.rollback()
    log.close()
    history = read_history(path, since=0)
    assert len(history.requests) == 5
    assert history.dropped == 195


def test_drops_are_kept_with_the_log(tmp_path):
    path = tmp_path / "log.db"
    log = RequestLog(path, max_rows=1000, max_days=30, max_waiting=3)
    assert not log.put(entry(3))
    assert log.put(entry(1))
    log.close()
    write(path, [entry(1)])
    assert (log.dropped, read_history(path, since=0).dropped) == (1, 1)


def test_a_log_that_was_removed_is_made_again(tmp_path):
    path = tmp_path / "log.db"
    log = RequestLog(path, max_rows=1000, max_days=30)
    path.unlink()
    log.put(entry())
    log.close()
    assert len(read_history(path, since=0).requests) == 1


def test_a_log_that_cannot_be_written_costs_entries_not_the_service(tmp_path, capsys):
    path = tmp_path / "log.db"
    log = RequestLog(path, max_rows=1000, max_days=30)
    for side in tmp_path.iterdir():
        side.unlink()
    path.write_bytes(b"not a database " * 100)
    log.put(entry())
    log.close()
    assert log.dropped == 1
    assert "cannot be written" in capsys.readouterr().err


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello " * 500)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(GatehouseError, match="cannot be used"):
            RequestLog(path, max_rows=1, max_days=1)
        with pytest.raises(GatehouseError, match="cannot be used"):
            read_history(path, since=0)
        assert path.read_bytes() == before
    with pytest.raises(GatehouseError, match=r"serving\.log"):
        RequestLog(text / "log.db", max_rows=1, max_days=1)


def test_no_log_is_an_empty_one(tmp_path):
    history = read_history(tmp_path / "none.db", since=0)
    assert len(history.requests) == len(history.images) == history.dropped == 0


def test_it_can_be_read_while_it_is_written(tmp_path):
    path = tmp_path / "log.db"
    log = RequestLog(path, max_rows=100_000, max_days=30)
    seen = []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            seen.append(len(read_history(path, since=0).requests))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        log.put(entry(1))
    log.close()
    stop.set()
    reader.join(10)
    assert log.dropped == 0
    assert seen == sorted(seen)
    assert len(read_history(path, since=0).requests) == 300
