"""The zoo: teachers, clean and backdoored, go through the pipeline (reports/study/mitigation.json).

`python -m flows.zoo --data FOLDER`. Cells are kept in .gatehouse/zoo: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from flows import detection_page
from flows.cells import run_cells
from flows.profile import profile_params
from flows.stage import Context, as_flow
from flows.study import COMMITTED, REPORTS, prepare_data
from flows.zoo_cells import STORE, VERSION, Protected, Taught, work
from flows.zoo_detection import detect
from flows.zoo_page import PAGE, write_page
from tasks.backdoor.zoo.plan import CLEAN, SIZES, ZooTeacher, zoo
from tasks.errors import GatehouseError
from tasks.files import write_json
from tasks.risk import THRESHOLDS

MITIGATION = REPORTS / "mitigation.json"
ZOO = REPORTS / "zoo.json"
DEVELOPMENT = REPORTS / "zoo_development.json"  # draw 0: the teachers that the deciding detectors were chosen on
DRAWS_APART = 100_000  # between the seeds of one draw and those of the next
MODERATE = 1  # column of tasks.risk.THRESHOLDS: the default's answer to A.2
CHECKS = ("trigger_control", "patch_control", "accuracy_minimum")


def run_zoo(context: Context, options: argparse.Namespace) -> None:
    """Train the teachers that are missing, send each through the pipeline, and write the table after each few."""
    params = context.params
    teachers = zoo(prepare_data(context), params.data.image_size, params.run.seed + DRAWS_APART * options.draw)
    if options.architecture:
        teachers = [t for t in teachers if t.architecture == options.architecture]
    thresholds = tuple((name, THRESHOLDS[f"backdoor.{name}"][MODERATE]) for name in CHECKS)
    student, section = params.student.model_dump_json(), params.backdoor.model_dump_json()
    failed: list[str] = []
    taught = _run(context, options, [Taught(t) for t in teachers], "teachers", failed)
    if options.only == "teachers":
        return
    if options.only == "detect":
        table = detect(context, [t for t in teachers if t in taught], workers=options.workers)
        table_file = DEVELOPMENT if options.draw == 0 else ZOO
        write_json(table_file, {"command": f"{_command(options)} --only detect", **table})
        if detection_page.PAGE.exists():
            detection_page.write_page(REPORTS)
        return
    cells = [Protected(t, student, section, thresholds) for t in teachers]
    rows: list[dict[str, Any]] = []
    step = max(1, options.workers) * 2
    for start in range(0, len(cells), step):  # the table grows as the zoo does
        done = _run(context, options, cells[start : start + step], "through the pipeline", failed)
        for cell in cells[start : start + step]:
            if cell.teacher in done and cell.teacher in taught:
                rows.append(_row(cell.teacher, taught[cell.teacher], done[cell.teacher]))
        write_json(MITIGATION, _table(rows, dict(thresholds), options))
        if PAGE.exists():
            write_page(MITIGATION)
    for sentence in failed:
        context.say(f"[red]{sentence}[/red]")
    if failed:
        raise GatehouseError(f"{len(failed)} cells were not measured; run again to try them alone.")


def _run(
    context: Context, options: argparse.Namespace, cells: Sequence[Any], what: str, failed: list[str]
) -> dict[ZooTeacher, dict[str, Any]]:
    outcomes = run_cells(
        cells,
        work,
        folder=STORE / "cells",
        workers=options.workers,
        version=VERSION,
        ray=context.params.study.ray,
        progress=lambda done, total, name: context.progress(done, total, f"{what}: {name}"),
    )
    failed += [f"{o.cell.name}: {o.error}" for o in outcomes if o.error]
    return {o.cell.teacher: o.result | {"seconds": round(o.cpu_seconds, 1)} for o in outcomes if o.result is not None}


def _row(teacher: ZooTeacher, taught: dict[str, Any], protected: dict[str, Any]) -> dict[str, Any]:
    return {
        "architecture": teacher.architecture,
        "attack": teacher.attack,
        "side": teacher.side,
        "poison_rate": teacher.poison_rate,
        "pattern": teacher.pattern,
        "place": teacher.place,
        "alpha": teacher.alpha,
        "seed": teacher.seed,
        "target": "" if teacher.attack == CLEAN else teacher.target,
        "teacher": {k: v for k, v in taught.items() if k not in ("hardware", "seconds")},
        **protected,
    }


def _command(options: argparse.Namespace) -> str:
    draw = f" --draw {options.draw}" if options.draw else ""
    return f"python -m flows.zoo --profile {options.profile} --data FOLDER{draw}"


def _table(rows: list[dict[str, Any]], thresholds: dict[str, float], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "title": "Students of clean and backdoored teachers after the pipeline",
        "command": _command(options),
        "sizes": {name: vars(sizes) for name, sizes in SIZES.items()},
        "thresholds": thresholds,
        "rows": rows,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.zoo", description=__doc__)
    parser.add_argument("--profile", default=COMMITTED)
    parser.add_argument("--data", help="folder that holds the data sets", default=None)
    parser.add_argument("--only", choices=("teachers", "detect"), help="train teachers and stop, or vet them")
    parser.add_argument("--architecture", choices=tuple(SIZES))
    parser.add_argument("--draw", type=int, default=0, help="another draw of the same plan, with seeds of its own")
    parser.add_argument("--workers", type=int, default=1, help="cells at a time, each on one thread")
    options = parser.parse_args(argv)
    console = Console(file=sys.stdout, width=160 if not sys.stdout.isatty() else None)
    try:
        if options.workers < 1:
            raise GatehouseError("--workers must be at least 1.")
        context = Context("zoo", "", profile_params(options.profile, options.data), console, "")
        if os.environ.get("PREFECT_API_URL"):
            as_flow("zoo", lambda: run_zoo(context, options))
        else:
            run_zoo(context, options)
    except GatehouseError as error:
        console.print(f"[bold red]zoo: {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
