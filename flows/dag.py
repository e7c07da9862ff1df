"""DVC's DAG: its stages and edges, what has changed, and running one stage."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Literal

import psutil

from flows.server import stop
from tasks.errors import GatehouseError
from tasks.files import read_json, write_json

LOGS = Path(".gatehouse/logs")
RUNNING = Path(".gatehouse/running")
_interrupted = Event()
State = Literal["ran", "skipped", "restored", "failed", "not reached"]


@dataclass(frozen=True)
class Dag:
    """`needs[stage]` are the stages that must come before it; in the order of dvc.yaml."""

    needs: dict[str, tuple[str, ...]]
    changed: frozenset[str]

    def ancestors(self, stage: str) -> set[str]:
        found: set[str] = set()
        queue = list(self.needs[stage])
        while queue:
            if (one := queue.pop()) not in found:
                found.add(one)
                queue.extend(self.needs[one])
        return found


def prepare() -> None:
    """Make DVC usable where the project was copied rather than cloned (no git)."""
    if not Path(".dvc").is_dir():
        raise GatehouseError("The folder .dvc is missing; clone the project again, it belongs to it.")
    if not Path(".git").exists():
        _dvc("config", "--local", "core.no_scm", "true")


def read_dag() -> Dag:
    """Stages and edges from dvc.yaml, and which stages' inputs or outputs differ from dvc.lock."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            graph = repo.index.graph
            needs = {s.addressing: tuple(sorted(d.addressing for d in graph.successors(s))) for s in graph.nodes}
            changed = frozenset(repo.status())
    except DvcException as error:
        raise GatehouseError(f"DVC cannot read the pipeline: {' '.join(str(error).split())}.") from error
    return Dag(needs, changed & needs.keys())


def run_stage(stage: str, environment: dict[str, str], say: Callable[[str], None]) -> tuple[State, float]:
    """`dvc repro --single-item STAGE`; what it prints is kept in .gatehouse/logs and, where it is the stage's, said.

    Raises:
        GatehouseError: the stage failed; the message is the stage's own last words.
    """
    if _interrupted.is_set():
        raise GatehouseError("interrupted before it began.")
    started = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", stage],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,  # so that an interrupt reaches us alone, and we stop the family in order
    )
    record = RUNNING / f"{stage}.json"
    write_json(record, {"pid": process.pid, "born": psutil.Process(process.pid).create_time()})
    try:
        assert process.stdout is not None
        with (LOGS / f"{stage}.log").open("w", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                lines.append(line.rstrip())
                if line.startswith((f"{stage}  ", f"{stage}: ")):
                    say(line.rstrip())
        code = process.wait()
    finally:
        if process.poll() is None:
            stop(process.pid)
        record.unlink(missing_ok=True)
    seconds = time.monotonic() - started
    text = "\n".join(lines)
    if code and _interrupted.is_set():
        raise GatehouseError("interrupted.")
    if code:
        raise GatehouseError(_last_words(stage, lines))
    if "didn't change, skipping" in text:
        return "skipped", seconds
    return ("restored" if "is cached - skipping run" in text else "ran"), seconds


def interrupt() -> None:
    """Stop every stage that runs and let none begin."""
    _interrupted.set()
    stop_leftovers()


def stop_leftovers() -> list[str]:
    """Stop stages that a killed run left running; returns their names."""
    found = []
    for record in sorted(RUNNING.glob("*.json")):
        content = read_json(record)
        try:
            process = psutil.Process(content["pid"])
            if abs(process.create_time() - content["born"]) < 1:
                stop(process.pid)
                found.append(record.stem)
        except psutil.NoSuchProcess:
            found += _orphans(record.stem)
        record.unlink(missing_ok=True)
    return found


def _orphans(stage: str) -> list[str]:
    """Stop the stage's own process where dvc, which started it, was killed."""
    module, _, candidate = stage.partition("@")
    here = os.getcwd()
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"flows.{module}" not in words or (candidate and candidate not in words):
            continue
        try:
            if process.cwd() == here and process.pid != os.getpid():
                stop(process.pid)
                found.append(stage)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _last_words(stage: str, lines: list[str]) -> str:
    own = [line.removeprefix(f"{stage}: ") for line in lines if line.startswith(f"{stage}: ")]
    if own:
        return own[-1]
    log = LOGS / f"{stage}.log"
    said = [line for line in lines if line.strip()]
    errors = [line for line in said if re.match(r"(ERROR|\w*(Error|Exception))\b", line)]
    last = (errors or said or ["it printed nothing"])[0 if errors else -1]
    return f"the stage stopped unexpectedly ({last.strip()}); its log is {log}."


def _dvc(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], check=True, capture_output=True)
