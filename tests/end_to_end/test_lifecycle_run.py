"""What `make run` promises on the embedded default, and on the ways in which it may go wrong."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.end_to_end.conftest import Workspace, clean_environment, copy_project

pytestmark = pytest.mark.end_to_end


def verify(workspace: Workspace) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.promotion", "verify"],
        cwd=workspace.path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_candidate_is_champion_and_its_evidence_verifies(finished: Workspace) -> None:
    summary = finished.json("reports/summary.json")
    assert {s["state"] for s in summary["stages"]} == {"ran"}
    assert summary["promotion"]["decision"] == "promoted"
    required = [g for g in summary["gates"] if g["required"]]
    assert {g["gate"] for g in required} == {"data", "provenance", "backdoor", "adversarial", "privacy"}
    assert {g["verdict"] for g in required} == {"passed"}
    result = verify(finished)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_honest_teacher_is_chosen_and_the_others_are_refused_by_evidence(finished: Workspace) -> None:
    report = finished.json("reports/teacher.json")
    assert report["chosen"] == "honest"
    refused = {c["name"]: c["reasons"] for c in report["candidates"] if not c["accepted"]}
    assert set(refused) == {"bargain", "pickled"}
    assert all(refused.values())


def test_the_pickled_payload_did_not_run(finished: Workspace) -> None:
    assert not list(finished.path.rglob("PAYLOAD_RAN"))


def test_no_pickle_is_left_anywhere(finished: Workspace) -> None:
    offers = finished.path / "models/teachers/pickled"  # the one file that is hostile on purpose
    suspects = [
        p
        for p in finished.path.rglob("*")
        if p.suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth") and ".venv" not in p.parts
    ]
    assert [p for p in suspects if not p.is_relative_to(offers)] == []


def test_a_second_run_skips_everything(finished: Workspace) -> None:
    result = finished.run()
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(finished.states().values()) == {"skipped"}


def test_a_changed_privacy_parameter_runs_only_what_depends_on_it(
    finished: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = branch(finished, tmp_path_factory)
    workspace.change(lambda p: p["privacy"].update(attack_images=p["privacy"]["attack_images"] - 20))
    workspace.run()
    states = workspace.states()
    untouched = {"risk", "data", "providers", "teacher", "drill", "student", "backdoor@student", "adversarial@student"}
    untouched |= {"private_student", "backdoor@private_student", "adversarial@private_student"}
    assert {s for s, state in states.items() if state == "skipped"} == untouched
    assert {s for s, state in states.items() if state == "ran"} == states.keys() - untouched


def test_a_backdoored_teacher_without_defences_is_refused_by_the_backdoor_gate(
    finished: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = branch(finished, tmp_path_factory)
    shutil.rmtree(workspace.path / "mlartifacts")
    (workspace.path / "mlflow.db").unlink()

    def bargain_only(params: dict[str, Any]) -> None:
        params["teacher"]["cards"] = ["models/teachers/bargain/card.yaml"]
        params["teacher"]["waive"] = ["signature", "licence", "disclosed_data"]
        off = ("patch_probability", "patch_adversarial", "overlay_probability", "adversarial_budget")
        params["student"].update(freeze="none", **dict.fromkeys(off, 0.0))
        params["backdoor"]["mitigation"] = []

    workspace.change(bargain_only)
    result = workspace.run()
    assert result.returncode == 1
    backdoor = next(
        g
        for g in workspace.json("reports/summary.json")["gates"]
        if (g["gate"], g["candidate"]) == ("backdoor", "student")
    )
    assert backdoor["verdict"] == "failed"
    assert re.search(r"(trigger|patch)_control", result.stdout)
    assert "next:" in result.stdout
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{workspace.path}/mlflow.db")
    assert [m.aliases for m in client.search_registered_models() if m.aliases] == []


def test_a_run_killed_in_student_training_completes_to_the_same_digest(
    finished: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = branch(finished, tmp_path_factory)
    wanted = finished.json("models/trained/student/model.json")["sha256"]
    shutil.rmtree(workspace.path / "models/trained/student")
    lock = yaml.safe_load((workspace.path / "dvc.lock").read_text())
    del lock["stages"]["student"]  # DVC no longer knows that it ran, and without its run cache it cannot look it up
    (workspace.path / "dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.rmtree(workspace.path / ".dvc/cache/runs")
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.lifecycle"], cwd=workspace.path, env=clean_environment(), start_new_session=True
    )
    checkpoints = workspace.path / ".gatehouse/checkpoints"
    deadline = time.monotonic() + 900
    while not list(checkpoints.glob("student-*.safetensors")) and time.monotonic() < deadline:
        assert run.poll() is None, "the run ended before the student's training began"
        time.sleep(0.05)
    for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
        if process.is_running():
            process.send_signal(signal.SIGKILL)
    run.wait(timeout=30)
    result = workspace.run()
    assert result.returncode == 0, result.stdout + result.stderr
    assert workspace.json("models/trained/student/model.json")["sha256"] == wanted


def branch(finished: Workspace, factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the finished run, caches and registry included, to change without spoiling it for other tests."""
    target = factory.mktemp("branch") / "project"
    shutil.copytree(finished.path, target, symlinks=True, ignore=shutil.ignore_patterns("lifecycle.lock"))
    return Workspace(target)


def test_the_copy_is_a_whole_project(project: Path, tmp_path: Path) -> None:
    """The other tests would be worth little if the copy lacked what a clone has."""
    workspace = copy_project(project, tmp_path)
    for name in ("dvc.yaml", "params.yaml", ".dvc/config", "flows/lifecycle.py", "tasks/gate.py"):
        assert (workspace.path / name).is_file()
