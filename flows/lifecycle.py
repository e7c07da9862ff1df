"""The lifecycle: reads dvc.yaml, runs its stages in parallel where the edges allow, and says what came of it.

`python -m flows.lifecycle` is what `make run` calls. Exit status 0: the candidate is champion; 1: it was refused, or a
stage failed; 2: the command line is wrong.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from flows import dag, summary
from flows.profile import DEFAULT, apply_profile, known_profiles
from flows.server import prefect_environment, prefect_server
from flows.stage import PARENT_MLFLOW_RUN, PARENT_TASK_RUN
from tasks.errors import GatehouseError
from tasks.params import Promotion, load_params

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

LOCK = Path(".gatehouse/lifecycle.lock")
CONSOLE = Console()


@dataclass(frozen=True)
class Outcome:
    """What became of one stage."""

    name: str
    state: dag.State
    seconds: float
    error: str = ""


def run_lifecycle(profile: str = DEFAULT, data: str | None = None) -> dict[str, Any]:
    """Run every stage that needs it and write reports/summary.json; returns its content.

    Raises:
        GatehouseError: the run could not start (parameters, profile, lock, server); a stage's failure is in the result.
    """
    started = time.monotonic()
    with _only_one():
        for stage in dag.stop_leftovers():
            _say(f"stopped {stage}, which an interrupted run had left behind")
        changed_keys = apply_profile(profile, data)
        params = load_params()
        dag.prepare()
        graph = dag.read_dag()
        if changed_keys:
            _say(f"profile {profile} sets {', '.join(changed_keys)}")
        outcomes = _run_stages(graph, workers=min(4, os.cpu_count() or 1))
        result = summary.collect([asdict(o) for o in outcomes], profile, time.monotonic() - started)
        if result["promotion"].get("decision") == "promoted":
            result = _confirm(result, params.promotion)
        summary.write(result)
        _publish(result)
    return result


def _run_stages(graph: dag.Dag, *, workers: int) -> list[Outcome]:
    """Submit every stage as a Prefect task that waits for the stages it needs."""
    from prefect import task
    from prefect.states import Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.tracking import lifecycle_run

    outcomes: dict[str, Outcome] = {}

    def run_one(stage: str, upstream: list[str]) -> str | State:
        from prefect.runtime import task_run

        if stage not in graph.changed and all(state == "skipped" for state in upstream):
            outcomes[stage] = Outcome(stage, "skipped", 0.0)
            return "skipped"
        _say(f"{stage} starts")
        try:
            state, seconds = dag.run_stage(stage, {PARENT_TASK_RUN: str(task_run.id)}, _say)
        except GatehouseError as error:
            outcomes[stage] = Outcome(stage, "failed", 0.0, str(error))
            _say(f"{stage} failed")
            return Failed(message=str(error))
        outcomes[stage] = Outcome(stage, state, round(seconds, 1))
        _say(f"{stage} {state} in {seconds:.0f} s")
        return state

    with lifecycle_run(needed=bool(graph.changed)) as run_id:
        os.environ[PARENT_MLFLOW_RUN] = run_id
        with ThreadPoolTaskRunner(max_workers=workers) as runner:
            futures: dict[str, Any] = {}
            for stage in _in_order(graph):
                # DVC refuses at once when another process of ours holds its lock for a moment: that is worth a retry.
                named = task(
                    run_one,
                    name=stage,
                    task_run_name=stage,
                    cache_policy=None,
                    retries=3,
                    retry_delay_seconds=2,
                    retry_condition_fn=_is_lock,
                )
                futures[stage] = runner.submit(
                    named, parameters={"stage": stage, "upstream": [futures[d] for d in graph.needs[stage]]}
                )
            try:
                for future in futures.values():
                    future.wait()
            except BaseException:
                # An interrupt: the stages first, then the threads that wait for them come to an end by themselves.
                dag.interrupt()
                raise
    return [outcomes.get(stage, Outcome(stage, "not reached", 0.0)) for stage in _in_order(graph)]


def _is_lock(_task: Any, _run: Any, state: State) -> bool:
    return "Unable to acquire lock" in (state.message or "") or "is busy" in (state.message or "")


def _in_order(graph: dag.Dag) -> list[str]:
    """Stages so that each comes after what it needs, otherwise as dvc.yaml lists them."""
    order: list[str] = []
    while len(order) < len(graph.needs):
        order.append(next(s for s, needs in graph.needs.items() if s not in order and set(needs) <= set(order)))
    return order


def _confirm(result: dict[str, Any], promotion: Promotion) -> dict[str, Any]:
    """The registry has to agree with the reports: someone may have moved the alias since promotion."""
    from flows.champion import champion_standing

    problem = champion_standing(promotion, result["promotion"]["sha256"])
    if problem:
        result["promotion"] = {**result["promotion"], "decision": "not standing", "reasons": [{"sentence": problem}]}
    return result


def _publish(result: dict[str, Any]) -> None:
    """Prefect artifacts: the verdict table and where the dossier is."""
    from prefect.artifacts import create_link_artifact, create_table_artifact

    rows = [{k: gate[k] for k in ("gate", "candidate", "verdict", "required")} for gate in result["gates"]]
    create_table_artifact(key="verdicts", table=rows or [{"gate": "none"}], description="Gates of this run")
    dossier = Path(result["dossier"]).resolve()
    create_link_artifact(key="dossier", link=dossier.as_uri(), link_text="Security dossier")


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold the project's lock for a run; the kernel gives it back when the process dies."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise GatehouseError(
                f"A lifecycle is already running here (process {lock.read().strip() or 'unknown'}); "
                "wait for it or stop it first."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _say(text: str) -> None:
    CONSOLE.print(text, highlight=False, markup=False, soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    """Command line of the lifecycle."""
    parser = argparse.ArgumentParser(prog="python -m flows.lifecycle", description=__doc__)
    parser.add_argument("--profile", default=DEFAULT, help=f"one of: {', '.join(known_profiles())}")
    parser.add_argument("--data", metavar="FOLDER", help="where the profile's images are; sets data.root")
    arguments = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        with prefect_server():
            from prefect import flow

            # Results stay in memory: DVC decides what is skipped, Prefect caches nothing.
            lifecycle = flow(run_lifecycle, name="lifecycle", persist_result=False, validate_parameters=False)
            try:
                result = lifecycle(arguments.profile, arguments.data or None)
            finally:
                _flush_logs()
    except GatehouseError as error:
        CONSOLE.print(f"[bold red]{error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        _say("interrupted; `make run` goes on from here")
        return 130
    summary.show(result, CONSOLE)
    return 0 if result["promotion"].get("decision") == "promoted" else 1


def _flush_logs() -> None:
    """Send what Prefect still holds of its logs while there is a server to take it."""
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.environ.update({k: os.environ.get(k, v) for k, v in prefect_environment().items()})
    sys.exit(main())
