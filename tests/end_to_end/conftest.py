"""One whole run on the embedded default, in a copy of the project; every test of this folder looks at what it left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

SECONDS_AT_MOST = 1500


@dataclass(frozen=True)
class Workspace:
    """A copy of the project in which the lifecycle can be run."""

    path: Path

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.lifecycle", *options],
            cwd=self.path,
            env=clean_environment() | environment,
            capture_output=True,
            text=True,
            timeout=SECONDS_AT_MOST,
        )

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def states(self) -> dict[str, str]:
        return {s["name"]: s["state"] for s in self.json("reports/summary.json")["stages"]}

    def change(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Edit params.yaml as a user would (comments are lost, which matters to nobody here)."""
        params = yaml.safe_load((self.path / "params.yaml").read_text())
        edit(params)
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def clean_environment() -> dict[str, str]:
    """This process's environment without what would point the copy at servers or stores of someone else."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "GATEHOUSE_", "DVC_"))}


def copy_project(project: Path, target: Path) -> Workspace:
    """What git tracks (and what it would, were it committed now), with this environment's interpreter as .venv."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=project,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    for name in names:
        if name and name != "dvc.lock" and (project / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project / name, target / name)
    (target / ".venv").symlink_to(Path(sys.prefix))
    return Workspace(target)


@pytest.fixture(scope="session")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The embedded default, run to its end, with every file that a stage opened listed in trace/."""
    workspace = copy_project(project, tmp_path_factory.mktemp("default"))
    (workspace.path / "trace").mkdir()
    result = workspace.run(GATEHOUSE_TRACE=str(workspace.path / "trace"))
    (workspace.path / "output.txt").write_text(result.stdout + result.stderr)
    assert result.returncode == 0, result.stdout + result.stderr
    return workspace
