"""Actions of incidents: taken once, also where the monitor is killed between any two steps."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from flows import incidents
from flows.incidents import NotDoneError, close, read_incidents, respond
from tasks.errors import GatehouseError
from tasks.monitoring.findings import Finding, Standing
from tasks.params import load_params

SHA = "a" * 64
STANDING = Standing(name="m", version="1", sha256=SHA, exists=True, since="monday")
HIT = Finding(
    severity="critical", about="advisory", reason="Its teacher is bad.", next_step="N.", cause="advisory", key="k1"
)
STARTED = Path("started.txt")  # what stands for Prefect's server, which knows a run by its incident's id


def start_once(incident: str) -> str:
    known = STARTED.read_text().split() if STARTED.exists() else []
    if incident not in known:
        STARTED.write_text("\n".join([*known, incident]))
    return f"flow run of {incident}"


@pytest.fixture
def project(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose chain of decisions says that version 1 reigns."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((project / "params.yaml").read_text())
    monkeypatch.setattr(incidents, "start_lifecycle", start_once)
    monkeypatch.setattr(incidents, "in_force", newest_ruling)
    monkeypatch.setattr(incidents, "withdraw", lambda version, sha256, reason: rule("withdrawn"))
    rule("promoted")
    return tmp_path


RULINGS = Path("rulings.jsonl")  # what stands for the signed chain of decisions, which asks MLflow too


def rule(decision: str) -> None:
    with RULINGS.open("a") as f:
        f.write(json.dumps({"decision": decision, "version": "1", "sha256": SHA, "at": "monday"}) + "\n")


def newest_ruling(_: object = None) -> dict:
    return json.loads(RULINGS.read_text().splitlines()[-1])


def once(found: tuple[Finding, ...] = (HIT,)) -> list[Finding]:
    return respond(found, STANDING, load_params())[1]


def end_state() -> tuple:
    ruled = newest_ruling()
    found = [(i.key, i.state, i.pending, sorted(i.done)) for i in read_incidents()]
    return ruled["decision"], ruled["version"], found, len(STARTED.read_text().split())


WANTED = ("withdrawn", "1", [("k1", "open", (), ["lifecycle", "withdraw"])], 1)


@pytest.mark.usefixtures("project")
def test_an_advisory_withdraws_and_starts_the_lifecycle_once() -> None:
    assert once() == []
    assert end_state() == WANTED
    assert once() == []
    assert once(()) == []
    assert end_state() == WANTED


STEPS = ("append", "withdraw", "start_lifecycle")


def _killed(when: str, nth: int) -> None:
    """Run the monitor's part and die by SIGKILL before or after the nth step."""
    count = 0

    def dying(name: str):  # type: ignore[no-untyped-def]
        real = getattr(incidents, name)

        def step(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            if when == "before" and count == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            if when == "after" and count == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return step

    for name in STEPS:
        setattr(incidents, name, dying(name))
    once()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])  # opened, withdrawn, said so, started, said so
def test_killed_between_any_two_steps_it_ends_in_the_same_state(when: str, nth: int) -> None:
    process = get_context("fork").Process(target=_killed, args=(when, nth))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    # What the next run finds: the champion is withdrawn already, or the advisory matches it still.
    withdrawn = newest_ruling()["decision"] == "withdrawn"
    once(() if withdrawn else (HIT,))
    assert end_state() == WANTED


@pytest.mark.usefixtures("project")
def test_the_same_version_promoted_again_is_taken_out_again() -> None:
    once()
    rule("promoted")
    once((HIT.model_copy(update={"key": "k2"}),))
    assert newest_ruling()["decision"] == "withdrawn"
    assert [i.key for i in read_incidents()] == ["k1", "k2"]


@pytest.mark.usefixtures("project")
def test_what_cannot_be_done_stays_pending_and_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: str) -> str:
        raise NotDoneError("the lifecycle was not started, for no Prefect server answers")

    monkeypatch.setattr(incidents, "start_lifecycle", nobody)
    [undone] = once()
    assert "no Prefect server answers" in undone.reason
    assert "make run" in undone.next_step
    assert [i.pending for i in read_incidents()] == [("lifecycle",)]
    monkeypatch.setattr(incidents, "start_lifecycle", start_once)
    assert once(()) == []
    assert end_state() == WANTED


@pytest.mark.usefixtures("project")
def test_a_cause_that_is_gone_takes_nothing_out_of_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> None:
        raise GatehouseError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(incidents, "withdraw", cannot)
        [undone] = once()
    assert "The disk is full" in undone.reason
    assert once(()) == []
    assert newest_ruling()["decision"] == "promoted"
    assert read_incidents()[0].done["withdraw"].startswith("not needed")


@pytest.mark.usefixtures("project")
def test_drift_opens_nothing_and_a_refused_feed_only_tells() -> None:
    drift = Finding(severity="warning", about="drift", reason="D.", next_step="N.", cause="drift", key="drift")
    feed = Finding(severity="warning", about="advisory feed", reason="F.", next_step="N.", cause="feed", key="feed")
    once((drift, feed))
    assert [(i.key, i.actions) for i in read_incidents()] == [("feed", ())]
    assert newest_ruling()["decision"] == "promoted"


@pytest.mark.usefixtures("project")
def test_a_human_closes_it_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.monitoring_commands import command

    once()
    [incident] = read_incidents()
    with pytest.raises(GatehouseError, match="--note"):
        close(incident.id, " ")
    with pytest.raises(GatehouseError, match=rf"open are: {incident.id}"):
        close("2026-01-01-000000", "x")
    assert command(["close", incident.id, "--note", "Another teacher is in."]) == 0
    assert command(["incidents"]) == 0
    assert "Another teacher is in." in capsys.readouterr().out
    with pytest.raises(GatehouseError, match="none"):
        close(incident.id, "again")
    with pytest.raises(SystemExit):
        command(["close", incident.id, "--note", "again"])
