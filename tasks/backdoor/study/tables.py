"""Rows of Tables 3 to 9: means and standard deviations over seeds, beside the published figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.backdoor.study.cells import CLEAN, TeacherCell
from tasks.backdoor.study.plan import ARCHITECTURES, ATTACKS, TRAINABLE, Ground
from tasks.backdoor.study.published import IMAGE_SIDE, PRUNED, STRIPPED, STUDENTS, Filtered, Transfer
from tasks.backdoor.triggers import pixels
from tasks.stats import over_seeds

Figures = dict[str, Any]  # a cell's result, with "cpu_seconds"
Results = Mapping[Any, Figures]  # by cell; a cell that was not measured is missing
TITLES = {
    "table3": "Transfer of BadNets and IMC to the student",
    "table4": "Clean students under the BadNets trigger",
    "table5": "Transfer of the latent backdoor to the student",
    "table6": "Fine-Pruning, ResNet-18",
    "table7": "Fine-Pruning, simple CNN",
    "table8": "STRIP, ResNet-18",
    "table9": "STRIP, simple CNN",
    "recovery": "Neural Cleanse on the teachers",
    "more_images": "BadNets students of the simple CNN on all student images",
    "balanced": "Transfer of the latent backdoor to students whose classes weigh alike",
}
TABLES = tuple(TITLES)
TRANSFER = ("attack_success_rate", "accuracy", "balanced_accuracy", "clean_rate", "trigger_control")
SCORES = ("f1", "precision", "recall", "accuracy")
FILTERED = (*SCORES, *(f"study_rule_{s}" for s in SCORES), "auroc", "false_refusals", "malicious", "alpha")
RECOVERED = ("iou", "inside", "success", "mask_pixels", "other_class_mask_pixels")


@dataclass(frozen=True)
class Row:
    """One cell of a table: what names it, the cells measured for it (one a seed), and what was published."""

    names: dict[str, Any]
    cells: tuple[Any, ...]
    side: int
    published: Transfer | Filtered | None
    measures: tuple[str, ...]  # their names; the first is the row's own
    measure: Callable[[Figures, int], dict[str, float | None]]  # of a cell's figures, at a side


def rows_of(table: str, ground: Ground, alphas: Mapping[str, float]) -> list[Row]:
    """The rows of a table. STRIP's cells depend on its blend weight by architecture, and are empty without one."""
    return list(_ROWS[table](table, ground, alphas))


def table_rows(
    table: str, ground: Ground, results: Results, alphas: Mapping[str, float], command: str
) -> list[Figures]:
    """JSON-ready rows, all of them: one that was not measured yet has `seeds` 0 and figures of null."""
    return [_as_json(row, ground, results, command) for row in rows_of(table, ground, alphas)]


def _as_json(row: Row, ground: Ground, results: Results, command: str) -> Figures:
    found = [results[cell] for cell in row.cells if cell in results]
    measured = [row.measure(f, row.side) for f in found]
    figures = {name: over_seeds([m[name] for m in measured]) for name in row.measures}
    first = row.measures[0]
    published = None
    if row.published is not None:
        published = asdict(row.published)
        if isinstance(row.published, Filtered):
            published = {"mean": row.published.f1, "sd": None} | published
    out = row.names | {
        "side": row.side,
        "trigger_pixels": pixels(row.side / IMAGE_SIDE, ground.image_size) if row.side else 0,
        "measure": first,
        **figures.pop(first),
        "values": [m[first] for m in measured],
        "seeds": len(found),
        "published": published,
        **figures,
    }
    if worst := Counter(f["by_side"][str(row.side)]["worst_class"] for f in found if "by_side" in f):
        out["worst_class"] = worst.most_common(1)[0][0]
    if teachers := [_teacher(cell) for cell in row.cells]:
        out["teacher"] = _teacher_figures(teachers, results, row.side)
    sizes = {k: v for k, v in asdict(row.cells[0]).items() if isinstance(v, int | float)} if row.cells else {}
    return out | {
        "image_size": ground.image_size,
        "sizes": sizes,
        "hardware": "; ".join(sorted({f["hardware"] for f in found})),
        "seconds": round(sum(f["cpu_seconds"] for f in found), 1),
        "command": command,
    }


def _teacher(cell: Any) -> TeacherCell:
    while not isinstance(cell, TeacherCell):
        cell = cell.teacher if hasattr(cell, "teacher") else cell.student
    return cell


def _teacher_figures(teachers: Sequence[TeacherCell], results: Results, side: int) -> Figures:
    """The teachers' own success, on the attacker's validation images for latent, and accuracy on their task."""
    found = [results[t] for t in teachers if t in results]
    own = [f["by_side"].get(str(side), {}).get("attack_success_rate") for f in found]
    if teachers[0].attack == "latent":
        own = [f["attackers_success"] for f in found]
    return {
        "attack_success_rate": over_seeds(own),
        "accuracy": over_seeds([f["accuracy"] for f in found]),
        "seeds": len(found),
        "measured_on": "validation images, before the head was replaced"
        if teachers[0].attack == "latent"
        else "test images",
    }


def _transfer(figures: Figures, side: int) -> dict[str, float | None]:
    return {k: figures.get(k, figures["by_side"][str(side)].get(k)) for k in TRANSFER}


def _filtered(figures: Figures, side: int) -> dict[str, float | None]:  # noqa: ARG001  as `_transfer`
    return {k: float(figures[k]) for k in FILTERED}


def _recovered(figures: Figures, side: int) -> dict[str, float | None]:  # noqa: ARG001  as `_transfer`
    own = next(c for c in figures["classes"] if c["class"] == figures["target"])
    others = [c["mask_pixels"] for c in figures["classes"] if c is not own]
    return {k: own.get(k) for k in RECOVERED[:-1]} | {"other_class_mask_pixels": float(np.mean(others))}


def _teachers(ground: Ground, architecture: str, attack: str, side: int) -> list[TeacherCell]:
    seeds = ground.network(architecture).seeds
    return [ground.teacher(architecture, attack, side, i) for i in range(seeds)]


def _students(table: str, ground: Ground, alphas: Mapping[str, float]) -> Iterator[Row]:  # noqa: ARG001  as the others
    attacks = {"table3": ("badnets", "imc"), "table4": (CLEAN,)}.get(table, ("latent",))
    student = ground.balanced if table == "balanced" else ground.student
    for architecture in ARCHITECTURES:
        for attack in attacks:
            for trainable in TRAINABLE:
                for side in ground.study.sides:
                    names = {"attack": attack, "architecture": architecture, "trainable": trainable}
                    key = (architecture, "none" if attack == CLEAN else attack, str(trainable))
                    teachers = _teachers(ground, architecture, attack, side)
                    cells = tuple(student(t, trainable) for t in teachers)
                    yield Row(names, cells, side, STUDENTS[key].get(side), TRANSFER, _transfer)


def _pruned(table: str, ground: Ground, alphas: Mapping[str, float]) -> Iterator[Row]:  # noqa: ARG001  as the others
    architecture = {"table6": "resnet18", "table7": "simple_cnn"}[table]
    for attack in ATTACKS:
        for defence in ("none", "fine_pruning"):
            for side in ground.study.sides:
                teachers = _teachers(ground, architecture, attack, side)
                measured: tuple[Any, ...] = tuple(teachers)
                if defence == "fine_pruning":
                    measured = tuple(ground.pruning(t) for t in teachers)
                elif attack == "latent":
                    measured = tuple(ground.student(t, "none") for t in teachers)
                names = {
                    "attack": attack,
                    "architecture": architecture,
                    "trainable": "none",
                    "defence": defence,
                    "model": "student" if attack == "latent" else "teacher",
                }
                yield Row(names, measured, side, PRUNED[architecture, attack, defence].get(side), TRANSFER, _transfer)


def _stripped(table: str, ground: Ground, alphas: Mapping[str, float]) -> Iterator[Row]:
    architecture = {"table8": "resnet18", "table9": "simple_cnn"}[table]
    alpha = alphas.get(architecture)
    for attack in ATTACKS:
        for side in ground.study.sides:
            teachers = _teachers(ground, architecture, attack, side)
            cells = tuple(ground.strip(t, alpha) for t in teachers) if alpha is not None else ()
            names = {"attack": attack, "architecture": architecture, "trainable": "none"}
            yield Row(names, cells, side, STRIPPED[architecture, attack].get(side), FILTERED, _filtered)


def _recoveries(table: str, ground: Ground, alphas: Mapping[str, float]) -> Iterator[Row]:  # noqa: ARG001  as the others
    """Clean teachers (side 0), BadNets and IMC; a latent backdoor's class is not the teacher's."""
    for architecture in ARCHITECTURES:
        for attack, side in [(CLEAN, 0), *((a, s) for a in ("badnets", "imc") for s in ground.study.sides)]:
            cells = tuple(ground.recovery(t) for t in _teachers(ground, architecture, attack, side))
            yield Row({"attack": attack, "architecture": architecture}, cells, side, None, RECOVERED, _recovered)


def _more_images(table: str, ground: Ground, alphas: Mapping[str, float]) -> Iterator[Row]:  # noqa: ARG001  as the others
    """One seed of Table 3's BadNets students on every image: does a longer training remove more?"""
    sides = ground.study.sides
    for trainable, side in [*(("last", s) for s in sides), ("all", max(sides))]:
        cell = ground.student(ground.teacher("simple_cnn", "badnets", side, 0), trainable, images=0)  # type: ignore[arg-type]
        names = {"attack": "badnets", "architecture": "simple_cnn", "trainable": trainable}
        published = STUDENTS["simple_cnn", "badnets", trainable].get(side)
        yield Row(names, (cell,), side, published, TRANSFER, _transfer)


_ROWS: dict[str, Callable[[str, Ground, Mapping[str, float]], Iterator[Row]]] = {
    "table3": _students,
    "table4": _students,
    "table5": _students,
    "table6": _pruned,
    "table7": _pruned,
    "table8": _stripped,
    "table9": _stripped,
    "recovery": _recoveries,
    "more_images": _more_images,
    "balanced": _students,
}
