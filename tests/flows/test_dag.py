"""Stages are read from dvc.yaml and run one by one; a stage's failure is told in its own words."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import dag
from tasks.errors import GatehouseError

PIPELINE = """
stages:
  first:
    cmd: cp seed.txt first.txt
    deps: [seed.txt]
    outs: [first.txt]
  second:
    foreach: [a, b]
    do:
      cmd: cp first.txt second_${item}.txt
      deps: [first.txt]
      outs: ["second_${item}.txt"]
  spoken:
    cmd: 'echo "spoken: the disk is full; free some space." && exit 1'
    deps: [second_a.txt]
    outs: [never.txt]
"""


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "seed.txt").write_text("1")
    return tmp_path


def test_stages_edges_and_changes_come_from_dvc(pipeline: Path) -> None:
    graph = dag.read_dag()
    assert graph.needs["second@a"] == ("first",)
    assert graph.ancestors("spoken") == {"first", "second@a"}
    assert graph.changed == {"first", "second@a", "second@b", "spoken"}


def test_a_stage_runs_then_is_skipped_and_a_failure_speaks(pipeline: Path) -> None:
    said: list[str] = []
    assert dag.run_stage("first", {}, said.append)[0] == "ran"
    assert "first" not in dag.read_dag().changed
    assert dag.run_stage("first", {}, said.append)[0] == "skipped"
    dag.run_stage("second@a", {}, said.append)
    with pytest.raises(GatehouseError, match=r"^the disk is full; free some space\.$"):
        dag.run_stage("spoken", {}, said.append)
    assert not list(dag.RUNNING.glob("*.json"))


def test_what_a_killed_run_left_running_is_stopped(pipeline: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    dag.RUNNING.mkdir(parents=True)
    born = psutil.Process(sleeper.pid).create_time()
    (dag.RUNNING / "first.json").write_text(json.dumps({"pid": sleeper.pid, "born": born}))
    (dag.RUNNING / "second@a.json").write_text(json.dumps({"pid": 1, "born": time.time() + 999}))
    assert dag.stop_leftovers() == ["first"]
    assert not psutil.pid_exists(sleeper.pid)
    assert not list(dag.RUNNING.glob("*.json"))


def test_a_broken_pipeline_is_one_sentence(pipeline: Path) -> None:
    (pipeline / "dvc.yaml").write_text("stages: {first: {nonsense: 1}}")
    with pytest.raises(GatehouseError, match="DVC cannot read the pipeline"):
        dag.read_dag()
