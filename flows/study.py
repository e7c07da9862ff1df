"""The study's Experiments 1 to 3 measured again: Tables 3 to 9 beside the published figures (reports/study).

`python -m flows.study --profile study_cpu --data FOLDER`. Cells are kept in .gatehouse/study: a run that was stopped
goes on where it was, and what is measured already is only written anew.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.cells import Work, kept
from flows.measuring import COMMITTED, REPORTS, Bench, command_line, start
from flows.stage import Context
from flows.study_cells import STORE, VERSION, work, work_on_cuda
from flows.study_page import write_page
from tasks.backdoor.study.cells import CLEAN
from tasks.backdoor.study.plan import ARCHITECTURES, ATTACKS, Ground
from tasks.backdoor.study.tables import TABLES, TITLES, rows_of, table_rows
from tasks.data.build import read
from tasks.data.dataset import load_dataset
from tasks.data.prepare import prepare_task, save
from tasks.data.sources import open_source
from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_bytes, write_json, writing
from tasks.models.device import use_device
from tasks.params import Params

TASKS = ("teacher_task", "student_task")
INDEX = STORE / "data" / "index.json"


def study(context: Context, options: argparse.Namespace) -> None:
    """Measure what is missing, architecture by architecture and seed by seed, and write the tables after each."""
    params = context.params
    if params.study.device == "cuda" and params.study.ray:
        raise GatehouseError("Ray runs the study's cells on processors; set study.ray or study.device otherwise.")
    use_device(params.study.device)  # asked here, so that a missing device is one sentence and not one a cell
    ground = ground_of(context)
    tables = [options.only] if options.only else list(TABLES)
    bench = Bench(context, work_of(ground), STORE, VERSION, options.workers)
    for architecture in [options.architecture] if options.architecture else ARCHITECTURES:
        seeds = min(options.seeds or 1000, ground.network(architecture).seeds)
        for index in range(seeds):
            _seed(bench, ground, architecture, index, tables, options)
            write_tables(ground, tables, options)
    bench.close()


def _seed(
    bench: Bench, ground: Ground, architecture: str, index: int, tables: Sequence[str], options: argparse.Namespace
) -> None:
    """One repeat of every cell that the tables ask of an architecture."""
    wanted = _wanted(ground, architecture, index, tables, options.attack)
    teachers = list(dict.fromkeys(_teacher_of(cell) for cell in wanted))
    clean = ground.teacher(architecture, CLEAN, 0, index)
    bench.run([clean], "clean teacher")  # first: attacks start from it, and two processes must not train it twice
    bench.run([t for t in teachers if t.attack != CLEAN], "backdoored teachers")
    bench.run([cell for cell in wanted if cell not in teachers], "students and defences")
    if set(tables) & {"table8", "table9"}:
        bench.run([ground.alpha(architecture)], "STRIP's blend weight")
        alphas = blend_weights(ground)
        if architecture in alphas:
            backdoored = ground.backdoored(architecture, index)
            strips = [ground.strip(t, alphas[architecture]) for t in backdoored if options.attack in (None, t.attack)]
            bench.run(strips, "STRIP")


def _wanted(ground: Ground, architecture: str, index: int, tables: Sequence[str], attack: str | None) -> list[Any]:
    """The cells of this repeat in the tables' rows, STRIP's left out: they wait for their blend weight."""
    seed = ground.teacher(architecture, CLEAN, 0, index).seed
    cells = [cell for table in tables for row in rows_of(table, ground, {}) for cell in row.cells]
    own = [c for c in cells if (_teacher_of(c).architecture, _teacher_of(c).seed) == (architecture, seed)]
    return [c for c in dict.fromkeys(own) if attack in (None, _teacher_of(c).attack)]


def write_tables(ground: Ground, tables: Sequence[str], options: argparse.Namespace) -> None:
    """Every table from the cells that are kept, and the page once its tables are the committed ones."""
    alphas = blend_weights(ground)
    folder = reports_of(options.profile)
    for table in tables:
        cells = [cell for row in rows_of(table, ground, alphas) for cell in row.cells]
        everything = list(dict.fromkeys([*cells, *(_teacher_of(c) for c in cells)]))
        found = kept(everything, work_of(ground), folder=STORE / "cells", version=VERSION)
        results = {d.cell: (d.result or {}) | {"cpu_seconds": d.cpu_seconds} for d in found}
        command = f"python -m flows.study --profile {options.profile} --data FOLDER --only {table}"
        rows = table_rows(table, ground, results, alphas, command)
        write_json(folder / f"{table}.json", {"table": table, "title": TITLES[table], "rows": rows})
    if folder == REPORTS:
        write_page(REPORTS)


def work_of(ground: Ground) -> Work:
    return work_on_cuda if ground.study.device == "cuda" else work


def reports_of(profile: str) -> Path:
    return REPORTS if profile == COMMITTED else REPORTS / profile


def blend_weights(ground: Ground) -> dict[str, float]:
    """STRIP's blend weight by architecture, where it is measured."""
    cells = {ground.alpha(a): a for a in ARCHITECTURES}
    found = kept(list(cells), work_of(ground), folder=STORE / "cells", version=VERSION)
    return {cells[d.cell]: d.result["alpha"] for d in found if d.result}


def ground_of(context: Context) -> Ground:
    """The ground of every measurement on the profile's data: its images, and the teachers and students made of them."""
    params = context.params
    return Ground(prepare_data(context), params.data.image_size, params.run.seed, params.study)


def prepare_data(context: Context) -> str:
    """Both tasks' images prepared once and kept; returns the digest of their manifests, which cells name them by."""
    params = context.params
    asked = sha256_bytes(json.dumps([params.data.model_dump(mode="json"), params.run.seed]).encode())
    index = read_json(INDEX) if INDEX.exists() else {}
    if asked in index and (STORE / "data" / index[asked]).exists():
        return str(index[asked])
    prepared = {name: _prepare(context, params, name) for name in TASKS}
    temporary_name = STORE / "data" / asked
    with writing(temporary_name) as temporary:
        temporary.mkdir()
        for name, task in prepared.items():
            save(task, temporary / name)
    digest = sha256_bytes("".join(load_dataset(temporary_name / name).sha256 for name in TASKS).encode())[:16]
    with writing(STORE / "data" / digest) as final:
        os.replace(temporary_name, final)
    write_json(INDEX, index | {asked: digest})
    return digest


def _prepare(context: Context, params: Params, name: str) -> Any:
    records = open_source(params.data, getattr(params.data, name), seed=params.run.seed)
    reading = read(
        records,
        params.data,
        remedies=(params.data.remedy,),
        threads=params.run.threads,
        progress=lambda done, total: context.progress(done, total, f"images of the {name.replace('_', ' ')}"),
    )
    return prepare_task(reading, params.data, seed=params.run.seed)


def _teacher_of(cell: Any) -> Any:
    while hasattr(cell, "teacher") or hasattr(cell, "student"):
        cell = cell.teacher if hasattr(cell, "teacher") else cell.student
    return cell


def main(argv: list[str] | None = None) -> None:
    parser = command_line("study", __doc__)
    parser.add_argument("--only", choices=TABLES, help="one table")
    parser.add_argument("--architecture", choices=ARCHITECTURES)
    parser.add_argument("--attack", choices=(CLEAN, *ATTACKS))
    parser.add_argument("--seeds", type=_seeds, help="at most so many of the profile's seeds")
    options = parser.parse_args(argv)
    start("study", options, lambda context: study(context, options))


def _seeds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


if __name__ == "__main__":
    main()
