"""Every file of the project that a stage opens is among the dependencies that dvc.yaml lists for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.end_to_end.conftest import Workspace

pytestmark = pytest.mark.end_to_end

# Stores and caches that are no input of any stage, and params.yaml, which DVC tracks key by key.
NOT_INPUTS = (".venv", ".dvc", ".git", ".gatehouse", "mlflow.db", "mlartifacts", "trace", "params.yaml", "dvc.lock")
# Prefect looks for settings of its own in pyproject.toml; how threads wait (flows/__init__.py) changes no result.
NO_EFFECT = ("pyproject.toml", "flows/__init__.py")


def source_of(path: Path) -> Path:
    """The .py file behind a compiled one."""
    if path.parent.name == "__pycache__":
        return path.parent.parent / (re.sub(r"\.cpython-.*$", "", path.name) + ".py")
    return path


def inside(root: Path, line: str) -> str | None:
    path = Path(line)
    path = path if path.is_absolute() else root / path
    if not path.is_relative_to(root):
        return None
    name = source_of(path).relative_to(root).as_posix()
    if name.startswith(NOT_INPUTS) or name in NO_EFFECT or name.endswith(".partial") or not (root / name).is_file():
        return None
    return None if name.endswith("__init__.py") and only_a_docstring(root / name) else name


def only_a_docstring(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def test_every_file_read_is_declared(finished: Workspace) -> None:
    with Repo(str(finished.path)) as repo:
        stages = {s.name: s for s in repo.index.stages}
        assert stages
        undeclared = {}
        for name, stage in stages.items():
            trace = finished.path / "trace" / f"{name}.txt"
            assert trace.exists(), f"{name} left no trace: it did not run through flows.stage.main"
            declared = [Path(d.fs_path).relative_to(finished.path).as_posix() for d in stage.deps if d.fs_path]
            declared += [Path(o.fs_path).relative_to(finished.path).as_posix() for o in stage.outs]
            read = {n for line in trace.read_text().splitlines() if (n := inside(finished.path, line))}
            assert read, f"{name}: nothing was read, so the trace sees nothing"
            missing = {n for n in read if not any(n == d or n.startswith(f"{d}/") for d in declared)}
            if missing:
                undeclared[name] = sorted(missing)
    assert undeclared == {}
