"""Incidents are what their events add up to; the record notices what was done to it."""

from __future__ import annotations

import json
import os
import resource
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from tasks.errors import GatehouseError
from tasks.monitoring.findings import Finding
from tasks.monitoring.incidents import append, events, fold, is_open, opened, opens

POLICY = {"advisory": ("withdraw", "lifecycle"), "drift": ()}


def finding(severity: str = "critical", cause: str = "advisory", key: str = "k") -> Finding:
    return Finding(severity=severity, about="a", reason="R.", next_step="N.", cause=cause, key=key)


@pytest.mark.parametrize(
    ("severity", "cause", "wanted"),
    [
        ("critical", "", True),
        ("critical", "unproven", True),
        ("warning", "", False),
        ("warning", "drift", True),
        ("warning", "extraction", False),
        ("info", "", False),
    ],
)
def test_critical_ones_and_those_that_the_policy_names_open(severity: str, cause: str, wanted: bool) -> None:
    assert opens(finding(severity, cause), POLICY) is wanted


def event(at: str = "2026-05-01T10:00:00+00:00", **changes: str) -> dict:
    return opened(finding(**changes), POLICY, at=at, version="4", sha256="f" * 64)


def test_a_life_of_an_incident() -> None:
    start = event()
    name = start["id"]
    [incident] = fold([start])
    assert (incident.state, incident.pending, incident.version) == ("open", ("withdraw", "lifecycle"), "4")
    done = {"event": "acted", "id": name, "at": "t", "action": "withdraw", "result": "version 4 was taken out"}
    assert fold([start, done])[0].pending == ("lifecycle",)
    closed = {"event": "closed", "id": name, "at": "t", "by": "someone", "note": "Another teacher."}
    [incident] = fold([start, done, closed])
    assert (incident.state, incident.closed_by, incident.note, incident.pending) == (
        "closed", "someone", "Another teacher.", ()
    )  # fmt: skip
    assert not is_open([incident], finding())


def test_the_same_cause_is_open_until_it_is_closed() -> None:
    incidents = fold([event()])
    assert is_open(incidents, finding())
    assert not is_open(incidents, finding(key="another"))


def test_names_differ_by_cause_and_time() -> None:
    assert len({event()["id"], event(key="another")["id"], event("2026-05-01T10:00:01+00:00")["id"]}) == 3


@pytest.mark.parametrize("broken", [{"event": "acted", "id": "x", "action": "withdraw", "result": ""}, {"event": "?"}])
def test_a_foreign_event_is_an_error(broken: dict) -> None:
    with pytest.raises(GatehouseError, match="none of an incident"):
        fold([event(), broken])


def test_the_record_is_whole_or_says_where_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a" / "incidents.jsonl"
    assert events(path) == []
    for key in ("one", "two", "three"):
        append(path, event(key=key))
    assert [e["key"] for e in events(path)] == ["one", "two", "three"]
    lines = path.read_text().splitlines()
    for broken in (lines[1:], [lines[0], lines[2]], [lines[0].replace("R.", "r."), *lines[1:]], [*lines, "{"]):
        path.write_text("\n".join(broken) + "\n")
        with pytest.raises(GatehouseError, match="breaks at line"):
            events(path)
        with pytest.raises(GatehouseError, match="breaks at line"):
            append(path, event())


def _write_many(path: Path, name: str) -> None:
    for i in range(20):
        append(path, {"event": "x", "id": f"{name}{i}"})


def test_writers_at_once_leave_a_whole_chain(tmp_path: Path) -> None:
    context = get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path / "i", n)) for n in "abc"]
    for w in writers:
        w.start()
    for w in writers:
        w.join(30)
    assert len(events(tmp_path / "i")) == 60


def _full_disk(path: Path, told: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, resource.RLIM_INFINITY))
    try:
        append(path, event(key="it does not fit"))
    except GatehouseError as error:
        os.write(os.open(told, os.O_WRONLY | os.O_CREAT), str(error).encode()[:49])


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path: Path) -> None:
    path, told = tmp_path / "i", tmp_path / "told"
    append(path, event())
    kept = path.read_bytes()
    process = get_context("fork").Process(target=_full_disk, args=(path, told))
    process.start()
    process.join(30)
    assert told.read_text().startswith("Incident not written")
    assert path.read_bytes() == kept
    append(path, event(key="later"))
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["k", "later"]
