"""The zoo: teachers, clean and backdoored, go through the pipeline (reports/study/mitigation.json).

`python -m flows.zoo --data FOLDER`. Cells are kept in .gatehouse/zoo: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from flows import detection_page, zoo_unnamed
from flows.measuring import REPORTS, Bench, command_line, keep, start
from flows.stage import Context
from flows.study import prepare_data
from flows.study_cells import hardware
from flows.zoo_cells import STORE, VERSION, Awoken, Outvoted, Taught, work
from flows.zoo_detection import detect
from flows.zoo_page import TRIGGER, write_page
from flows.zoo_pipeline import Results, by_teacher, send
from flows.zoo_table import RECIPE, merged, standing, unmeasured
from tasks.backdoor.judge import thresholds
from tasks.backdoor.zoo.plan import CLEAN, SIZES, ZooTeacher, clean_beside, unnamed, zoo
from tasks.params import Params
from tasks.risk import decide

MITIGATION, ENSEMBLES = REPORTS / "mitigation.json", REPORTS / "ensemble.json"
ZOO = REPORTS / "zoo.json"
UNNAMED = REPORTS / "unnamed.json"
DEVELOPMENT = REPORTS / "zoo_development.json"  # draw 0: the teachers that the deciding detectors were chosen on
DRAWS_APART = 100_000  # between the seeds of one draw and those of the next
BESIDE = 2  # clean teachers in an ensemble
ONLY = "train teachers and stop; vet them; let students of several of them vote; or try attacks that none was chosen on"


def run_zoo(context: Context, options: argparse.Namespace) -> None:
    """Train the teachers that are missing, send each through the pipeline, and write the table after each few."""
    params = context.params
    seed = params.run.seed + DRAWS_APART * options.draw
    if options.only == "unnamed":
        _unnamed(context, seed, options)
        return
    planned = zoo(prepare_data(context), params.data.image_size, seed)
    teachers = [t for t in planned if options.architecture in (None, t.architecture)]
    if options.missing:
        teachers = unmeasured(teachers, standing(MITIGATION, params.student.model_dump(mode="json")))
    bench = Bench(context, work, STORE, VERSION, options.workers)
    taught = by_teacher(bench.run([Taught(t) for t in teachers], "teachers"))
    if options.only == "detect":
        table = detect(context, [t for t in teachers if t in taught], workers=options.workers)
        found = {"command": f"{_command(options)} --only detect", **table}
        keep(ZOO if options.draw else DEVELOPMENT, found, detection_page.write_page)
    elif options.only == "ensembles":
        _outvote(bench, teachers, taught, options)
    elif not options.only:
        _protect(bench, planned, [t for t in teachers if t in taught], taught, options)
    bench.close()


def _unnamed(context: Context, seed: int, options: argparse.Namespace) -> None:
    """The table of attacks that nothing was chosen on."""
    teachers = unnamed(prepare_data(context), context.params.data.image_size, seed)
    limits = thresholds(decide(context.params.risk))
    bench = Bench(context, work, STORE, VERSION, options.workers)
    student = _student(context.params, teachers[0])
    about = {
        "title": "Marks that nothing in the pipeline was chosen on, through vet and the gate",
        "command": f"{_command(options)} --only unnamed",
        "hardware": hardware(),
        RECIPE: context.params.student.model_dump(mode="json"),
    }
    for rows in zoo_unnamed.measure(bench, teachers, student, limits):
        keep(UNNAMED, _table(rows, limits, options) | about, write_page)
    bench.close()


def _protect(
    bench: Bench,
    planned: Sequence[ZooTeacher],
    teachers: Sequence[ZooTeacher],
    taught: Results,
    options: argparse.Namespace,
) -> None:
    """The table of mitigation, written anew after every few teachers, backdoored ones first."""
    params, limits = bench.context.params, thresholds(decide(bench.context.params.risk))
    section, recipe = params.backdoor.model_dump_json(), params.student.model_dump(mode="json")
    rows, step = standing(MITIGATION, recipe), options.workers * 2
    teachers = sorted(teachers, key=lambda t: t.attack == CLEAN)
    for begin in range(0, len(teachers), step):
        some = teachers[begin : begin + step]
        done = send(bench, some, {t: _student(params, t) for t in some}, limits)
        added = {t: _row(t, taught[t], protected) for t, protected in done.items()}
        _awake(bench, added, section)
        rows = merged(rows, added.values(), planned)
        keep(MITIGATION, _table(rows, limits, options) | {RECIPE: recipe}, write_page)


def _awake(bench: Bench, rows: Results, section: str) -> None:
    """Beside each trigger that the re-activation test awoke: what it teaches the student of a clean teacher.

    Any student learns a trigger from poison in the end; what it learns beyond a clean teacher's was asleep in it.
    """
    cells = []
    for t, row in rows.items():
        if t.attack != CLEAN and row["reactivated"]["control"]["value"] > TRIGGER:
            by_class = row["after"]["control"]["by_class"]  # the test poisons towards the class that stands highest
            student = _student(bench.context.params, t)
            cells.append(
                Awoken(t, SIZES[t.architecture], student, section, clean_beside(t), by_class.index(max(by_class)))
            )
    for t, found in by_teacher(bench.run(cells, "clean teachers' students re-activated")).items():
        rows[t]["reactivated"]["clean_teacher"] = found


def _outvote(bench: Bench, teachers: Sequence[ZooTeacher], taught: Results, options: argparse.Namespace) -> None:
    """The table of ensembles: each backdoored teacher beside the two clean ones that follow it in the plan."""
    params = bench.context.params
    section, cells = params.backdoor.model_dump_json(), []
    for architecture in dict.fromkeys(t.architecture for t in teachers):
        own = [t for t in teachers if t.architecture == architecture and t in taught]
        clean = [t for t in own if t.attack == CLEAN]
        for i, t in enumerate(t for t in own if t.attack != CLEAN):
            beside = tuple(clean[(i + k) % len(clean)] for k in range(BESIDE)) if clean else ()
            cells.append(Outvoted(t, SIZES[architecture], _student(params, t), section, beside))
    done = by_teacher(bench.run(cells, "students vote"))
    rows = [t.as_json() | figures for t, figures in done.items()]
    title = "Students of one backdoored and two clean teachers, frozen features, no other defence"
    command = f"{_command(options)} --only ensembles"
    keep(ENSEMBLES, {"title": title, "command": command, "rows": rows}, write_page)


def _student(params: Params, teacher: ZooTeacher) -> str:
    """The recipe of params.yaml for the zoo's number of epochs; what is trainable, the work decides."""
    epochs = SIZES[teacher.architecture].student_epochs
    return params.student.model_copy(update={"epochs": epochs, "freeze": "all"}).identity()


def _row(teacher: ZooTeacher, taught: dict[str, Any], protected: dict[str, Any]) -> dict[str, Any]:
    return teacher.as_json() | {
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
    parser = command_line("zoo", __doc__)
    parser.add_argument("--only", choices=("teachers", "detect", "ensembles", "unnamed"), help=ONLY)
    parser.add_argument("--architecture", choices=tuple(SIZES))
    parser.add_argument("--missing", action="store_true", help="only teachers without a row by the recipe in force")
    parser.add_argument("--draw", type=int, default=0, help="another draw of the same plan, with seeds of its own")
    options = parser.parse_args(argv)
    start("zoo", options, lambda context: run_zoo(context, options))


if __name__ == "__main__":
    main()
