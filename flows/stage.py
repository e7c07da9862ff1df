"""What every stage shares: parameters, one clear error, an MLflow run, a Prefect flow run linked to its parent.

A stage is `python -m flows.<name>`, started by DVC. With PREFECT_API_URL set it is tracked as a Prefect flow, a child
of the lifecycle's task that started it; without, it runs just the same and only Prefect does not hear of it.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from rich.console import Console

from flows.terminal import bar, mendable, terminal
from tasks.params import Params, load_params

PARENT_TASK_RUN = "GATEHOUSE_PARENT_TASK_RUN_ID"
PARENT_MLFLOW_RUN = "GATEHOUSE_PARENT_MLFLOW_RUN_ID"


@dataclass
class Context:
    """What a stage's body is given."""

    name: str  # "student", or "backdoor@private_student" for a gate on a candidate
    candidate: str  # "" for a stage that is not run per candidate
    params: Params
    console: Console
    run_id: str  # of the stage's MLflow run
    last_progress: float = 0.0
    artifact_id: UUID | None = None

    def say(self, text: str) -> None:
        self.console.print(f"[bold]{self.name}[/bold]  {text}", highlight=False, soft_wrap=True)

    def progress(self, done: int, total: int, text: str) -> None:
        """Report long work: at most a line a second, and a Prefect progress artifact where Prefect listens."""
        now = time.monotonic()
        if now - self.last_progress < 1 and done < total:
            return
        self.last_progress = now
        self.say(f"{bar(done, total)} {text}")
        if os.environ.get("PREFECT_API_URL"):
            self._progress_artifact(100 * done / max(total, 1), text)

    def _progress_artifact(self, percent: float, text: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self.artifact_id is None:
            key = self.name.replace("@", "-").replace("_", "-")
            self.artifact_id = create_progress_artifact(progress=percent, key=key, description=text)
        else:
            update_progress_artifact(self.artifact_id, progress=percent, description=text)

    def metrics(self, values: dict[str, float | None]) -> None:
        """Record figures in the stage's MLflow run; `None` (not measured) is left out."""
        import mlflow

        mlflow.log_metrics({k.replace("@", "_"): float(v) for k, v in values.items() if v is not None})

    def artifact(self, path: str) -> None:
        """Keep a report with the stage's MLflow run."""
        import mlflow

        mlflow.log_artifact(path)


Body = Callable[[Context], None]


def main(stage: str, body: Body, *, per_candidate: bool = False, argv: list[str] | None = None) -> None:
    """Entry point of a stage's module: parse, run, and turn what the user can mend into one sentence and exit 1."""
    parser = argparse.ArgumentParser(prog=f"python -m flows.{stage}", description=body.__doc__)
    if per_candidate:
        parser.add_argument("--candidate", required=True, choices=("student", "private_student"))
    candidate = getattr(parser.parse_args(argv), "candidate", "")
    name = f"{stage}@{candidate}" if candidate else stage
    trace_reads(name)
    # DVC captures no terminal: colours and widths come from the lifecycle, which prints what a stage says.
    console = terminal()
    try:
        with mendable(name, console):
            params = load_params()
            limit_threads(params.run.threads)

            def tracked() -> None:
                with _mlflow_run(name) as run_id:
                    body(Context(name, candidate, params, console, run_id))

            if os.environ.get("PREFECT_API_URL"):
                as_flow(name, tracked)
            else:
                tracked()
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        where = error.filename
        console.print(f"[bold red]{name}: {where}: {error.strerror}; check the path, its rights and the free space.")
        raise SystemExit(1) from None


def limit_threads(threads: int) -> None:
    """Fix the number of threads: sums of floats depend on it, and digests must not."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid, and costly


def _mlflow_run(name: str):  # type: ignore[no-untyped-def]
    from flows.tracking import stage_run

    return stage_run(name, os.environ.get(PARENT_MLFLOW_RUN))


def as_flow(name: str, tracked: Callable[[], None]) -> None:
    """Run as a Prefect flow; its run is a child of the lifecycle's task where that is known."""
    from prefect import Flow
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Pending

    flow: Flow = Flow(fn=tracked, name=name.replace("@", "-"), validate_parameters=False, retries=0)
    parent = os.environ.get(PARENT_TASK_RUN)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(
            flow, name=name, parent_task_run_id=UUID(parent) if parent else None, state=Pending()
        )
    run_flow(flow, flow_run=run)


def trace_reads(name: str) -> None:
    """With GATEHOUSE_TRACE=FOLDER, append every file this process opens for reading to FOLDER/<stage>.txt.

    The test of `dvc.yaml` compares the list with the stage's dependencies.
    """
    folder = os.environ.get("GATEHOUSE_TRACE")
    if not folder:
        return
    log = open(os.path.join(folder, f"{name}.txt"), "a", encoding="utf-8")  # noqa: SIM115  open for the process's life

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "gatehouse.read" or (event == "open" and isinstance(args[1], str) and "r" in args[1]):
            log.write(f"{args[0]}\n")
            log.flush()

    def modules() -> None:
        """Code that was imported before the hook was there."""
        log.writelines(
            f"{module.__file__}\n" for module in list(sys.modules.values()) if getattr(module, "__file__", "")
        )

    sys.addaudithook(hook)
    atexit.register(modules)
