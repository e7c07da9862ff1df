"""Independent pieces of work (cells) in processes of their own; what is done stays done over a kill.

A cell is a small frozen record. Its result is one JSON file named by the cell's key, a digest of the record, the work
and the work's version: a run that was killed goes on where it stopped, and a changed cell is computed anew.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_bytes, write_json

Work = Callable[[Any], dict[str, Any]]
Progress = Callable[[int, int, str], None]
Outcomes = Generator["Done", None, None]
# One thread a cell: figures then do not depend on how many cells run at once. PASSIVE: idle threads do not spin.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# What may go wrong inside one cell and must not cost the others.
FAULTS = (GatehouseError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Done:
    """One cell's outcome: `result`, or `error` in one sentence. `seconds` are wall-clock, `cpu_seconds` its own."""

    cell: Any
    key: str
    result: dict[str, Any] | None
    error: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    cached: bool = False


def cell_key(cell: Any, work: Work, version: str = "1") -> str:
    """Hex digest of what decides a result: the cell's fields, the work's name and its version.

    Args:
        cell: a frozen dataclass or pydantic model whose fields are JSON-ready.
    """
    content = [f"{work.__module__}.{work.__qualname__}", version, type(cell).__qualname__, _fields(cell)]
    return sha256_bytes(json.dumps(content, sort_keys=True, allow_nan=False).encode())[:32]


def run_cells(
    cells: Sequence[Any],
    work: Work,
    *,
    folder: Path,
    workers: int,
    progress: Progress | None = None,
    version: str = "1",
    ray: bool = False,
) -> list[Done]:
    """Run `work(cell)` for every cell that has no result in `folder` yet; outcomes come in the cells' order.

    Args:
        work: a function at a module's top level, so that another process can import it; returns a JSON-ready dict.
        workers: processes at a time, each on one thread; 1 works in this process.
        progress: called as (cells done, all cells, the last one's name) after each.
        version: of the work; results of another version are computed anew.
        ray: hand the cells to a Ray cluster instead; needs the extra `ray`.

    Raises:
        GatehouseError: the work cannot be imported by another process, or Ray is missing.
    """
    if work.__module__ == "__main__" or "<" in work.__qualname__:
        raise GatehouseError(
            f"Cells need work that another process can import, which {work.__qualname__} in {work.__module__} is not; "
            "move it to the top level of a module."
        )
    keys = [cell_key(cell, work, version) for cell in cells]
    done = {key: found for key, cell in zip(keys, cells, strict=True) if (found := _cached(folder, key, cell))}
    todo = {key: cell for key, cell in zip(keys, cells, strict=True) if key not in done}
    run = _on_ray if ray else _here if workers == 1 else _in_processes
    with _environment(), closing(run(todo, work, workers)) as outcomes:
        for outcome in outcomes if todo else ():
            done[outcome.key] = outcome
            if not outcome.error:
                _keep(folder, outcome, work, version)
            if progress:
                progress(len(done), len(set(keys)), cell_name(outcome.cell))
    return [done[key] for key in keys]


def kept(cells: Sequence[Any], work: Work, *, folder: Path, version: str = "1") -> list[Done]:
    """The outcomes that `folder` holds of these cells; nothing is computed."""
    found = [_cached(folder, cell_key(cell, work, version), cell) for cell in cells]
    return [outcome for outcome in found if outcome]


def cell_name(cell: Any) -> str:
    """The record's own `name` where it has one, otherwise its fields."""
    name = getattr(cell, "name", None)
    return name if isinstance(name, str) else ", ".join(f"{k} {v}" for k, v in _fields(cell).items())


def _fields(cell: Any) -> dict[str, Any]:
    return cell.model_dump(mode="json") if isinstance(cell, BaseModel) else dataclasses.asdict(cell)


def _cached(folder: Path, key: str, cell: Any) -> Done | None:
    path = folder / f"{key}.json"
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("result"), dict):
        raise GatehouseError(f"{path} holds no cell's result; delete it and run again.")
    return Done(cell, key, found["result"], "", found["seconds"], found["cpu_seconds"], cached=True)


def _keep(folder: Path, outcome: Done, work: Work, version: str) -> None:
    write_json(
        folder / f"{outcome.key}.json",
        {
            "work": f"{work.__module__}.{work.__qualname__}",
            "version": version,
            "cell": _fields(outcome.cell),
            "seconds": outcome.seconds,
            "cpu_seconds": outcome.cpu_seconds,
            "result": outcome.result,
        },
    )


@contextmanager
def _environment() -> Iterator[None]:
    """For this process and those it starts: OpenMP reads its variables when torch is imported, before any cell runs."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _settle() -> int:
    """One thread and deterministic algorithms in this process; returns the number of threads there were."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid, and costly
    return threads


def _attempt(key: str, cell: Any, work: Work) -> Done:
    """The work on one cell, with what went wrong as one sentence."""
    started, cpu = time.perf_counter(), time.process_time()
    result: dict[str, Any] | None = None
    error = ""
    try:
        result = work(cell)
        json.dumps(result, allow_nan=False)
    except FAULTS as fault:
        result, error = None, _sentence(fault)
    took, own = time.perf_counter() - started, time.process_time() - cpu
    return Done(cell, key, result, error, round(took, 3), round(own, 3))


def _sentence(fault: BaseException) -> str:
    text = " ".join(str(fault).split()) or type(fault).__name__
    if isinstance(fault, GatehouseError):
        return text
    frame = traceback.extract_tb(fault.__traceback__)[-1]
    return f"{type(fault).__name__} in {Path(frame.filename).name}, line {frame.lineno}: {text}"


def _here(todo: dict[str, Any], work: Work, workers: int) -> Outcomes:  # noqa: ARG001  one of three that run cells
    import torch

    deterministic = torch.are_deterministic_algorithms_enabled()
    threads = _settle()
    try:
        for key, cell in todo.items():
            yield _attempt(key, cell, work)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _in_processes(todo: dict[str, Any], work: Work, workers: int) -> Outcomes:
    """Cells on `workers` processes. A process that dies takes its own cell with it; another takes its place."""
    waiting = list(todo.items())[::-1]
    busy: dict[Connection, tuple[SpawnProcess, str, Any]] = {}
    try:
        while waiting and len(busy) < workers:
            _give(*_start(work), waiting, busy)
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                process, key, cell = busy.pop(pipe)
                try:
                    yield pipe.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    pipe.close()
                    code = process.exitcode
                    yield Done(cell, key, None, f"its process ended with code {code}; run again, with fewer workers.")
                    if waiting:
                        _give(*_start(work), waiting, busy)
                else:
                    _give(process, pipe, waiting, busy)
    finally:
        for process, _, _ in busy.values():
            process.terminate()
        for process, _, _ in busy.values():
            process.join()


def _start(work: Work) -> tuple[SpawnProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _give(
    process: SpawnProcess,
    pipe: Connection,
    waiting: list[tuple[str, Any]],
    busy: dict[Connection, tuple[SpawnProcess, str, Any]],
) -> None:
    """The next cell to an idle process, or its end where there is none."""
    if not waiting:
        pipe.close()
        process.join()
        return
    key, cell = waiting.pop()
    busy[pipe] = (process, key, cell)
    try:
        pipe.send((key, cell))
    except (BrokenPipeError, ConnectionError):
        return  # it died at once: the pipe reads as ended, and the cell is reported there


def _serve(pipe: Connection, work: Work) -> None:
    """A worker's life: cells in, outcomes out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _settle()
    try:
        while True:
            key, cell = pipe.recv()
            pipe.send(_attempt(key, cell, work))
    except (EOFError, ConnectionError):
        return


def _on_ray(todo: dict[str, Any], work: Work, workers: int) -> Outcomes:
    """Cells as Ray tasks: on the cluster that RAY_ADDRESS names, otherwise on `workers` processes of this machine."""
    try:
        import ray
    except ImportError:
        raise GatehouseError("`ray: true` needs the extra `ray`; run `.venv/bin/pip install -e .[ray]`.") from None
    if not ray.is_initialized():
        # On a cluster the project has to be installed; here its workers find modules where this process does.
        here = not os.environ.get("RAY_ADDRESS")
        variables = ENVIRONMENT | ({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} if here else {})
        local = {"num_cpus": workers, "include_dashboard": False} if here else {}
        ray.init(runtime_env={"env_vars": variables}, log_to_driver=False, **local)
    remote = ray.remote(num_cpus=1, max_retries=0)(_on_ray_worker)
    going = {remote.remote(key, cell, work): (key, cell) for key, cell in todo.items()}
    while going:
        for reference in ray.wait(list(going))[0]:
            key, cell = going.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                yield Done(cell, key, None, f"Ray lost the cell ({type(error).__name__}); run again.")


def _on_ray_worker(key: str, cell: Any, work: Work) -> Done:
    _settle()
    return _attempt(key, cell, work)
