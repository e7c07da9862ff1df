"""Defences against adversarial examples, each attacked by somebody who knows it (reports/study/robust.json).

`python -m flows.robust --data FOLDER`. Cells are kept in .gatehouse/study: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from flows import adversarial_page
from flows.cells import Done
from flows.measuring import Bench, command_line, keep, start
from flows.refusing_cells import Refusing
from flows.robust_cells import RADII, SIGMA, VERSION, Defended, work
from flows.stage import Context
from flows.study import ground_of, reports_of
from flows.study_cells import STORE
from tasks.backdoor.study.cells import CLEAN
from tasks.backdoor.study.plan import Ground
from tasks.errors import GatehouseError
from tasks.evasion.defences import Row, table
from tasks.files import read_json
from tasks.params import Training, load_params
from tasks.stats import over_seeds, pooled

ARCHITECTURE = "simple_cnn"
BUDGETS = tuple(b / 255 for b in (1, 2, 4, 8))
TRAIN_IMAGES, TEST_IMAGES, EPOCHS = 6000, 3000, 20
IMAGES, OWN, STEPS, QUERIES = 200, 120, 20, 300
KINDS = {"ensemble": "Students of several teachers, which must agree", "null": "A NULL class for changed images"}
BASE = "all"  # the row that the others are held against


def robust(context: Context, options: argparse.Namespace) -> None:
    """Every defence on one teacher's students, then on the next one's, as many as the profile has seeds; the table
    after each teacher."""
    defences = {d.name: d for d in table(_recipe())}
    wanted = options.only or [*defences, *KINDS]
    if unknown := sorted(set(wanted) - set(defences) - set(KINDS)):
        known = ", ".join([*defences, *KINDS])
        raise GatehouseError(f"--only: no defence is called {', '.join(unknown)}; known are {known}.")
    ground = ground_of(context)
    bench = Bench(context, work, STORE, VERSION, options.workers)
    found: dict[str, list[Done]] = {name: [] for name in [*defences, *KINDS] if name in wanted}
    seeds, file = ground.network(ARCHITECTURE).seeds, reports_of(options.profile) / "robust.json"
    before = read_json(file) if options.only and file.exists() else {}
    for index in range(seeds):
        cells = [_cell(ground, defences[n], index) if n in defences else _refusing(ground, n, index) for n in found]
        for done in bench.run(cells, f"teacher {index + 1} of {seeds}"):
            found[done.cell.defence].append(done)
        keep(file, _table(found, before, ground, options), adversarial_page.write_page)
    bench.close()


def _refusing(ground: Ground, kind: str, index: int) -> Refusing:
    """A NULL class on one teacher's student, or an ensemble of the students of all, the first of them another each."""
    teachers = [ground.teacher(ARCHITECTURE, CLEAN, 0, i) for i in range(ground.network(ARCHITECTURE).seeds)]
    return Refusing(
        kind=kind,  # type: ignore[arg-type]
        teachers=(*teachers[index:], *teachers[:index]) if kind == "ensemble" else (teachers[index],),
        recipe=_recipe().undefended().model_dump_json(),
        **_sizes(),
    )


def _refusing_row(kind: str, done: Sequence[Done]) -> dict[str, Any]:
    results = [d.result for d in done if d.result]
    return {
        "defence": kind,
        "title": KINDS[kind],
        "seeds": [d.cell.teachers[0].seed for d in done],
        "accuracy": over_seeds([r["accuracy"]["value"] for r in results]),
        "refused": _over_images([r["refused"] for r in results]),
        "success": {
            who: [_over_images([r["success"][who][i] for r in results]) for i in range(len(BUDGETS))]
            for who in ("white_box", "gray_box")
        },
        "cpu_seconds": round(sum(d.cpu_seconds for d in done) / len(done), 1),
        "hardware": results[0]["hardware"],
    }


def _recipe() -> Training:
    """The lifecycle's own, whatever the profile leaves out of it for other measurements, with classes as they are.

    Weights by class move the answers of a student that is less sure to the rare classes, and so blur what a defence
    costs in accuracy.
    """
    return load_params().student.recipe().model_copy(update={"epochs": EPOCHS, "class_weights": False})


def _cell(ground: Ground, defence: Row, index: int) -> Defended:
    return Defended(
        teacher=ground.teacher(ARCHITECTURE, CLEAN, 0, index),
        defence=defence.name,
        trainable=defence.trainable,
        recipe=defence.recipe.model_dump_json(),
        guard=defence.guard,
        queries=QUERIES,
        **_sizes(),
    )


def _sizes() -> dict[str, Any]:
    """What is the same for every student that stands trial."""
    return {
        "train_images": TRAIN_IMAGES, "test_images": TEST_IMAGES, "images": IMAGES, "own": OWN,
        "budgets": BUDGETS, "steps": STEPS,
    }  # fmt: skip


def _row(defence: Row, done: Sequence[Done]) -> dict[str, Any]:
    results = [d.result for d in done if d.result]
    first = results[0]
    return {
        "defence": defence.name,
        "title": defence.title,
        "trainable": defence.trainable,
        "guard": defence.guard,
        "recipe": defence.recipe.model_dump(mode="json"),
        "seeds": [d.cell.teacher.seed for d in done],
        "accuracy": over_seeds([r["accuracy"]["value"] for r in results]),
        "balanced_accuracy": over_seeds([r["balanced_accuracy"] for r in results]),
        "success": {
            threat: [_over_images([r["success"][threat][i] for r in results]) for i in range(len(BUDGETS))]
            for threat in first["success"]
        },
        "robust_accuracy": [_over_images([r["robust"][i] for r in results]) for i in range(len(BUDGETS))],
        "by_attack": {name: _over_images([r["by_attack"][name] for r in results]) for name in first["by_attack"]},
        "certified": [_over_images([r["certified"][i] for r in results]) for i in range(len(RADII))],
        "cpu_seconds": round(sum(d.cpu_seconds for d in done) / len(done), 1),
        "hardware": first["hardware"],
    }


def _over_images(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares pooled over seeds, under the name that they share; the strongest attacks of any seed."""
    named: dict[str, Any] = {k: found[0][k] for k in ("budget", "radius") if k in found[0]}
    if "strongest" in found[0]:
        named["strongest"] = sorted({f["strongest"] for f in found})
    return named | pooled(found)


def _table(
    found: Mapping[str, Sequence[Done]], before: Mapping[str, Any], ground: Ground, options: argparse.Namespace
) -> dict[str, Any]:
    """What was found, and of `before` the rows of other defences."""
    defences = {d.name: d for d in table(_recipe())}
    rows = [_row(defences[name], done) for name, done in found.items() if name in defences and done]
    for row in rows:
        # Held against the undefended students of the same teachers: a table that is half done compares like with like.
        if base := [d for d in found.get(BASE, ()) if d.cell.teacher.seed in row["seeds"]]:
            row["beside_undefended"] = _beside(row, _row(defences[BASE], base))
    refusing = [_refusing_row(kind, done) for kind, done in found.items() if kind in KINDS and done]
    order = [*defences, *KINDS]

    def with_others(name: str, own: list[dict[str, Any]]) -> list[dict[str, Any]]:
        others = [r for r in before.get(name, ()) if r["defence"] not in found]
        return sorted([*own, *others], key=lambda r: order.index(r["defence"]))

    return {
        "title": "Students under defences, attacked by somebody who knows the defence",
        "command": f"python -m flows.robust --profile {options.profile} --data FOLDER",
        "architecture": ARCHITECTURE,
        "image_size": ground.image_size,
        "train_images": TRAIN_IMAGES,
        "epochs": EPOCHS,
        "steps": STEPS,
        "queries": QUERIES,
        "attackers_images": OWN,
        "smoothing_sigma": SIGMA,
        "rows": with_others("rows", rows),
        "refusing": with_others("refusing", refusing),
    }


def _beside(row: dict[str, Any], base: dict[str, Any]) -> dict[str, float | None]:
    """What the defence costs and brings, against the student that trained all features without any."""
    gray, own_gray = (r["success"]["gray_box"][-1]["mean"] for r in (base, row))
    white, own_white = (r["robust_accuracy"][-2]["mean"] for r in (base, row))
    return {
        "accuracy_cost": round(base["accuracy"]["mean"] - row["accuracy"]["mean"], 6),
        "gray_box_8_of_255_cut_by": round(gray / own_gray, 3) if own_gray else None,
        "robust_4_of_255_times": round(own_white / white, 3) if white else None,
    }


def main(argv: list[str] | None = None) -> None:
    parser = command_line("robust", __doc__)
    parser.add_argument(
        "--only", nargs="+", help="measure these defences alone, by name; the table keeps its other rows"
    )
    options = parser.parse_args(argv)
    start("robust", options, lambda context: robust(context, options))


if __name__ == "__main__":
    main()
