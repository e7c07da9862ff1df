"""MLflow: where its store is, and one run a stage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tasks.params import PARAMS_FILE

EXPERIMENT = "gatehouse"
DEFAULT_STORE = "sqlite:///mlflow.db"


def connect() -> None:
    """Point MLflow at MLFLOW_TRACKING_URI, or at the project's own SQLite file, and make the experiment."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE))
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        local = mlflow.get_tracking_uri().startswith("sqlite:")
        mlflow.create_experiment(EXPERIMENT, Path("mlartifacts").resolve().as_uri() if local else None)
    mlflow.set_experiment(EXPERIMENT)


@contextmanager
def stage_run(name: str, parent: str | None) -> Iterator[str]:
    """A run named after the stage, below `parent` where given, with the stage's parameters logged; yields its id."""
    connect()
    import mlflow

    tags = {"mlflow.parentRunId": parent} if parent else {}
    with mlflow.start_run(run_name=name, tags={**tags, "gatehouse.stage": name}) as run:
        sections = yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8"))
        own = sections.get(name.split("@")[0], {})
        mlflow.log_params({f"{name.split('@')[0]}.{k}": str(v)[:500] for k, v in own.items()})
        yield run.info.run_id


@contextmanager
def lifecycle_run(*, needed: bool) -> Iterator[str]:
    """The run above the stages' runs; yields its id, or "" where every stage is up to date and none is needed."""
    if not needed:
        yield ""
        return
    connect()
    import mlflow

    with mlflow.start_run(run_name="lifecycle", tags={"gatehouse.stage": "lifecycle"}) as run:
        yield run.info.run_id
