"""The request log: never waits, never grows without bound, survives what happens to its file."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from dataclasses import replace

import pytest
from log_tools import IMAGE, entry, write

from tasks.errors import GatehouseError
from tasks.serving.log import ImageEntry, RequestLog, read_history
from tasks.serving.log.privacy import mask_for
from tasks.serving.log.writer import SteadyClock
from tasks.serving.statistics import STATISTICS


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
    write(path, [entry(1, when=time.time() - 40 * 86_400), entry(1)], max_days=30, clock=SteadyClock(0.0))
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
    log.close(timeout=0.1)
    assert log.dropped == 1
    said = capsys.readouterr().err
    assert said.count("does not take entries, they wait") == 1
    assert "1 requests that were dropped" in said


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


def test_guards_and_sketches_are_kept(tmp_path):
    path = tmp_path / "log.db"
    refused = ImageEntry("ef" * 32, "", 0.0, (0.0,) * len(STATISTICS), guard="backdoor")
    write(path, [replace(entry(1), guards=("backdoor", "budget")), replace(entry(0), images=(IMAGE, refused))])
    history = read_history(path, since=0)
    assert history.requests["guards"].tolist() == ["backdoor,budget", ""]
    assert history.images["guard"].tolist() == ["", "", "backdoor"]
    assert history.images["sketch"].tolist() == [IMAGE.sketch, IMAGE.sketch, b""]


@pytest.mark.parametrize(("accounts", "kept"), [("name", 2), ("hash", 2), ("none", 1)])
def test_accounts_and_sketches_are_kept_as_the_policy_says(tmp_path, accounts, kept):
    path = tmp_path / "log.db"
    mask = mask_for(accounts, sketches=False, key=b"k" * 32)
    write(path, [entry(1), entry(1), replace(entry(1), account="10.0.0.2")], mask=mask)
    history = read_history(path, since=0)
    assert history.requests["account"].nunique() == kept
    assert ("10.0.0.1" in history.requests["account"].tolist()) == (accounts == "name")
    assert history.images["sketch"].eq(b"").all()
    assert mask_for("hash", sketches=True, key=b"other")(entry()).account not in history.requests["account"].tolist()


VERSION_1 = f"""
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, account TEXT NOT NULL, status INTEGER NOT NULL,
    error TEXT NOT NULL, model TEXT NOT NULL, count INTEGER NOT NULL, latency_ms REAL NOT NULL);
CREATE INDEX requests_time ON requests (time);
CREATE TABLE images (
    id INTEGER PRIMARY KEY, request INTEGER NOT NULL REFERENCES requests (id) ON DELETE CASCADE,
    sha256 TEXT NOT NULL, label TEXT NOT NULL, score REAL NOT NULL,
    {", ".join(f"{s} REAL NOT NULL" for s in STATISTICS)});
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO requests VALUES (1, 5.0, 'old', 200, '', 'ab', 1, 2.0);
INSERT INTO images VALUES (1, 1, 'cd', 'covid', 0.5, 1, 2, 3, 4, 5);
INSERT INTO counters VALUES ('dropped', 7);
PRAGMA user_version = 1;
"""


@pytest.mark.parametrize("by", ["the writer", "the reader"])
def test_a_log_of_the_first_version_is_upgraded(tmp_path, by):
    path = tmp_path / "log.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
    if by == "the writer":
        write(path, [entry(1)])
    history = read_history(path, since=0)
    assert history.dropped == 7
    assert history.requests["account"].tolist() == (["old", "10.0.0.1"] if by == "the writer" else ["old"])
    assert history.images["sketch"].iloc[0] == b""
    assert history.images["guard"].iloc[0] == history.requests["guards"].iloc[0] == ""


def test_a_log_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "log.db"
    write(path, [entry(1)])
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(GatehouseError, match="version 9"):
        RequestLog(path, max_rows=1, max_days=1)


def test_entries_wait_for_a_locked_file_and_are_written_when_it_is_free(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tasks.serving.log.store.BUSY_SECONDS", 0.1)
    path = tmp_path / "log.db"
    log = RequestLog(path, max_rows=1000, max_days=30)
    with sqlite3.connect(path) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        for _ in range(50):
            assert log.put(entry(1))
        said = ""
        while "they wait" not in said:
            said += capsys.readouterr().err
            time.sleep(0.02)
        blocker.rollback()
    log.close()
    assert len(read_history(path, since=0).requests) == 50
    assert log.dropped == 0
    assert capsys.readouterr().err.count("takes entries again") == 1


def test_a_full_disk_costs_what_the_bound_does_not_hold_and_no_more(tmp_path, capsys):
    """SQLite itself says that the disk is full: its file may not grow past so many pages."""
    path = tmp_path / "log.db"
    log = RequestLog(path, max_rows=100_000, max_days=30, max_waiting=400)
    limit = [10_000]
    real = log._store.engine.pool._creator

    def limited(*_):
        connection = real()
        connection.execute(f"PRAGMA max_page_count = {limit[0]}")
        return connection

    log._store.engine.pool._creator = limited
    limit[0] = 1  # SQLite takes the present size instead: the file cannot grow at all
    kept = said = 0
    while not log._away:  # reading what it says in a loop would lose what it says meanwhile
        kept += log.put(entry(1))
        said += 1
    assert "full" in capsys.readouterr().err
    for _ in range(1000):
        kept += log.put(entry(1))
        said += 1
    assert log.dropped == said - kept > 0
    limit[0] = 1_000_000
    log.close()
    history = read_history(path, since=0)
    assert len(history.requests) == len(history.images) == kept
    assert history.dropped == said - kept


def test_an_entry_that_no_database_takes_does_not_hold_up_the_others(tmp_path, capsys):
    path = tmp_path / "log.db"
    log = RequestLog(path, max_rows=1000, max_days=30)
    log.put(replace(entry(0), latency_ms=None))
    while "dropped" not in capsys.readouterr().err:
        time.sleep(0.02)
    log.put(entry(0))
    log.close()
    history = read_history(path, since=0)
    assert (len(history.requests), history.dropped) == (1, 1)
