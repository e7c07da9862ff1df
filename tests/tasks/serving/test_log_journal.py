"""What waited when the process was killed is written at the next start, once."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from log_tools import entry

from tasks.serving.log import RequestLog, read_history
from tasks.serving.log.journal import Journal

KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from log_tools import entry
from tasks.serving.log import RequestLog

log = RequestLog(Path("log.db"), max_rows=10_000, max_days=30, journal=Path("pending"))
{before}
for i in range(700):
    assert log.put(entry(2, when=i))
{after}
os.kill(os.getpid(), signal.SIGKILL)
"""
LOCK = 'import sqlite3; held = sqlite3.connect("log.db", isolation_level=None); held.execute("BEGIN IMMEDIATE")'


def killed(folder: Path, *, before: str = "", after: str = "") -> None:
    """A process that takes 700 requests and is killed."""
    root = Path(__file__).resolve().parents[3]
    script = KILLED.format(tests=str(Path(__file__).parent), before=before, after=after)
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True)
    assert process.returncode == -9, process.stderr.decode()


def restarted(folder: Path) -> RequestLog:
    log = RequestLog(folder / "log.db", max_rows=10_000, max_days=30, journal=folder / "pending")
    log.put(entry(0, when=700))
    log.close()
    return log


@pytest.mark.parametrize("before", ["", LOCK], ids=["while it writes", "while the database is locked"])
def test_a_killed_process_loses_nothing_and_doubles_nothing(tmp_path: Path, before: str) -> None:
    killed(tmp_path, before=before)
    waiting = list((tmp_path / "pending").glob("*.jsonl"))
    if before:
        sizes = [len(file.read_text().splitlines()) for file in waiting]
        assert sum(sizes) == 700
        assert max(sizes) <= 500
    assert restarted(tmp_path).dropped == 0
    history = read_history(tmp_path / "log.db", since=0)
    assert history.requests["time"].tolist() == list(range(701))
    assert len(history.images) == 1400
    assert history.images.iloc[-1]["sketch"] == bytes(range(32))
    assert not list((tmp_path / "pending").iterdir())
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("SELECT name FROM counters").fetchall() == [("dropped",)]


def test_a_batch_that_was_committed_before_the_kill_is_not_written_twice(tmp_path: Path) -> None:
    patch = "from tasks.serving.log.journal import Batch; Batch.done = lambda self: None"
    killed(tmp_path, before=patch, after="import time; time.sleep(3)")
    assert len(list((tmp_path / "pending").glob("*.jsonl"))) >= 2
    restarted(tmp_path)
    assert len(read_history(tmp_path / "log.db", since=0).requests) == 701


def test_a_line_cut_short_is_counted_and_the_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    killed(tmp_path, before=LOCK)
    last = max((tmp_path / "pending").glob("*.jsonl"))
    last.write_bytes(last.read_bytes()[:-40])
    restarted(tmp_path)
    history = read_history(tmp_path / "log.db", since=0)
    assert (len(history.requests), history.dropped) == (700, 1)
    assert "has lost 1 entries" in capsys.readouterr().err


def test_a_database_that_stays_away_at_the_end_finds_the_entries_at_the_next_start(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.db", max_rows=10_000, max_days=30, journal=tmp_path / "pending")
    with sqlite3.connect(tmp_path / "log.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for i in range(5):
            log.put(entry(1, when=i))
        log.close(timeout=0.1)
        other.rollback()
    assert log.dropped == 0
    restarted(tmp_path)
    assert len(read_history(tmp_path / "log.db", since=0).requests) == 6


def test_the_files_of_a_living_writer_are_its_own(tmp_path: Path) -> None:
    living = Journal(tmp_path / "pending")
    batch = living.batch()
    batch.add(entry(1))
    assert not list(Journal(tmp_path / "pending").left_behind())
    living.close()
    ((found,),) = Journal(tmp_path / "pending").left_behind()
    assert found.entries == batch.entries


def test_a_full_disk_leaves_whole_lines_and_entries_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    real, room = os.write, [3]

    def write(descriptor: int, data: bytes) -> int:
        room[0] -= 1
        return real(descriptor, data if room[0] >= 0 else data[:20])

    log = RequestLog(tmp_path / "log.db", max_rows=10_000, max_days=30, journal=tmp_path / "pending")
    with pytest.MonkeyPatch.context() as patch, sqlite3.connect(tmp_path / "log.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        patch.setattr(os, "write", write)
        for i in range(9):
            assert log.put(entry(1, when=i))
        files = sorted((tmp_path / "pending").glob("*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        assert [line["time"] for line in lines] == [0, 1, 2]
        other.rollback()
    log.close()
    assert len(read_history(tmp_path / "log.db", since=0).requests) == 9
    assert capsys.readouterr().err.count("in memory alone") == 1
