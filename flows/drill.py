"""Backdoors of our own are planted in copies of the teacher and followed into students, for every freeze policy."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save

from flows.stage import Context, main
from tasks.backdoor import drill as parts
from tasks.backdoor.choice import choose_policy
from tasks.backdoor.control import Control
from tasks.backdoor.defences.inversion import invert
from tasks.backdoor.drill import Canary, Cell
from tasks.backdoor.judge import judge, searched
from tasks.backdoor.search import search
from tasks.backdoor.triggers import Trigger
from tasks.data.dataset import Dataset, load_dataset
from tasks.files import write_json, writing
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.checkpoints import load_model, save_model
from tasks.params import FreezePolicy, Training
from tasks.risk import Policy, load_policy

TEACHER = Path("models/teacher")
MODELS = Path("models/drill")
REPORT = Path("reports/drill.json")
VALIDATION_IMAGES = 150
SCAN_HELD_OUT = 200
Part = tuple[Any, Any]


@dataclass
class Work:
    """What the drill works with and what it has gathered."""

    context: Context
    teacher: Classifier
    spec: ModelSpec
    student_spec: ModelSpec
    policy: Policy
    teacher_task: Dataset
    train: Part
    val: Part
    search: Part
    test: Part
    few: Part  # of the test images: where a figure need not be fine, as of canaries
    recipe: Training
    total: int = 0
    done: int = 0
    cells: list[Cell] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    canaries: dict[str, Canary] = field(default_factory=dict)
    teachers: dict[str, Classifier] = field(default_factory=dict)
    students: dict[str, Classifier] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.context.params.run.seed

    @property
    def triggers(self) -> dict[str, Trigger]:
        return {name: canary.trigger for name, canary in self.canaries.items()}

    def step(self, text: str) -> None:
        self.done += 1
        self.context.progress(self.done, self.total, text)


def drill(context: Context) -> None:
    """Plant canaries, train their students under every freeze policy, choose one, and try the gate's search on them."""
    started = time.monotonic()
    work = _prepare(context)
    report = [_canary(work, canary) for canary in _planned(work)]
    choice = choose_policy(work.cells, work.teacher, accuracy_tolerance=context.params.drill.accuracy_tolerance)
    fixed = context.params.student.freeze
    used: FreezePolicy = choice.policy if fixed == "drill" else fixed
    context.say(f"freeze policy {choice.policy}: {choice.reason}")
    references = [_reference(work, i, used) for i in range(context.params.drill.clean_references)]
    for name in work.canaries:
        _search_canary(work, name, used)
    scan = _scan_teachers(work)
    with writing(MODELS) as folder:
        folder.mkdir(parents=True)
        _save(work, folder)
    write_json(
        REPORT,
        {
            "canaries": report,
            "references": references,
            "cells": [c.as_json() for c in work.cells],
            "freeze": {
                "policy": choice.policy,
                "reason": choice.reason,
                "used": used,
                "table": [row.as_json() for row in choice.table],
            },
            "searches": work.searches,
            "teacher_scan": scan,
            "student_training": {"epochs": work.recipe.epochs, "images": len(work.train[1])},
        },
    )
    _tell(context, work, time.monotonic() - started)


def _prepare(context: Context) -> Work:
    params = context.params
    teacher, record = load_model(TEACHER)
    teacher_task, student_task = load_dataset(Path("data/teacher_task")), load_dataset(Path("data/student_task"))
    recipe = Training(**{k: getattr(params.student, k) for k in Training.model_fields})
    work = Work(
        context=context,
        teacher=teacher,
        spec=record.spec,
        student_spec=record.spec.model_copy(update={"classes": student_task.classes}),
        policy=load_policy(),
        teacher_task=teacher_task,
        train=student_task.part("train", params.drill.student_images, params.run.seed),
        val=student_task.part("val", VALIDATION_IMAGES, params.run.seed),
        search=student_task.part("val", params.backdoor.search_images, params.run.seed),
        test=student_task.part("test"),
        few=student_task.part("test", SCAN_HELD_OUT, params.run.seed),
        recipe=recipe.model_copy(update={"epochs": params.drill.student_epochs}),
    )
    canaries, references = params.drill.canaries, params.drill.clean_references
    work.total = canaries * (len(params.drill.policies) + 3) + 3 * references + 1
    return work


def _planned(work: Work) -> list[Canary]:
    section = work.context.params.drill
    return parts.plan_canaries(
        section.canaries,
        work.teacher_task.part("train")[0],
        trigger_fraction=section.trigger_fraction,
        poison_rate=section.poison_rate,
        epochs=section.teacher_epochs,
        classes=len(work.spec.classes),
        seed=work.seed,
    )


def _canary(work: Work, canary: Canary) -> dict[str, Any]:
    """Plant one canary so that it takes and survives an undefended transfer, then train its defended students."""
    limit = work.policy.threshold("backdoor", "trigger_control")
    train, val, test = (work.teacher_task.part(s) for s in ("train", "val", "test"))
    attempts = []
    for attempt in range(3):
        teacher = parts.plant(work.teacher, train, val, canary)
        success, accuracy = parts.measure_teacher(teacher, test, canary)
        student, cell = _student(work, teacher, canary, "undefended", "none")
        attempts.append({"poison_rate": canary.poison_rate, "epochs": canary.epochs, "teacher_success": success,
                         "undefended_control": cell.control.value})  # fmt: skip
        if attempt == 2 or (success >= parts.TOOK and cell.control.value > limit):
            break
        canary = canary.stronger()
    work.step(f"{canary.name}: {canary.pattern} square, {canary.corner}, success in its teacher {success:.2f}")
    work.canaries[canary.name], work.teachers[canary.name] = canary, teacher
    _keep(work, student, cell)
    for policy in _policies(work):
        student, cell = _student(work, teacher, canary, "defended", policy)
        _keep(work, student, cell)
        work.step(f"{canary.name}, {policy} trainable: trigger control {cell.control.value:.2f}")
    return {
        "name": canary.name,
        "corner": canary.corner,
        "pattern": canary.pattern,
        "side": canary.trigger.pattern.shape[-1],
        "target": work.spec.classes[canary.target_class],
        "poison_rate": canary.poison_rate,
        "epochs": canary.epochs,
        "teacher_success": round(success, 6),
        "teacher_clean_accuracy": round(accuracy, 6),
        "took": success >= parts.TOOK,
        "attempts": attempts,
        "trigger_file": f"{MODELS / canary.name}.safetensors",
    }


def _policies(work: Work) -> list[FreezePolicy]:
    """The policies to compare, and the one that params.yaml fixes by hand where that is none of them."""
    fixed = work.context.params.student.freeze
    extra = [] if fixed == "drill" else [fixed]
    return list(dict.fromkeys([*work.context.params.drill.policies, *extra]))


def _student(
    work: Work, teacher: Classifier, canary: Canary, arm: str, policy: FreezePolicy
) -> tuple[Classifier, Cell]:
    model = _trained(work, teacher, arm, policy, canary.seed)
    target = parts.same_class(work.spec.classes[canary.target_class], work.student_spec.classes)
    accuracy, control, success = parts.measure_student(model, work.test, canary.trigger, target)
    return model, Cell(canary.name, "canary", arm, policy, accuracy, control, success)


def _trained(work: Work, teacher: Classifier, arm: str, policy: FreezePolicy, seed: int) -> Classifier:
    recipe = work.recipe if arm == "defended" else parts.undefended(work.context.params.student)
    classes = len(work.student_spec.classes)
    return parts.student_of(teacher, classes, work.train, work.val, recipe, policy=policy, seed=seed)


def _keep(work: Work, student: Classifier, cell: Cell) -> None:
    work.cells.append(cell)
    work.students[f"{cell.model}_{cell.arm}_{cell.policy}"] = student


def _reference(work: Work, index: int, policy: FreezePolicy) -> dict[str, Any]:
    """A clean teacher, its student by the candidate's own recipe, and what the gate says of that student."""
    section, name, seed = work.context.params.drill, f"clean{index}", work.seed + 7919 * (index + 1)
    fresh = section.reference_start == "fresh"
    train, val, test = (work.teacher_task.part(s) for s in ("train", "val", "test"))
    teacher = parts.clean_reference(
        work.teacher, work.spec, train, val, fresh=fresh, epochs=section.reference_epochs, seed=seed
    )
    work.teachers[name] = teacher
    accuracy = parts.accuracy_of(teacher, test)
    work.step(f"{name}: clean teacher, balanced accuracy {accuracy:.2f}")
    for arm, own in (("undefended", "none"), ("defended", policy)):
        student = _trained(work, teacher, arm, own, seed)
        for canary in work.canaries.values():
            right, control, _ = parts.measure_student(student, work.test, canary.trigger, None)
            _keep(work, student, Cell(name, "clean", arm, own, right, control, None))
    work.step(f"{name}: students trained")
    student = work.students[f"{name}_defended_{policy}"]
    judged = judge(student, work.search, work.test, work.triggers, work.context.params.backdoor, seed=seed)
    work.searches.append(searched(judged, model=name, kind="clean", arm="defended", policy=policy))
    work.step(f"{name}: natural patch control {judged.patch_control['value']:.2f}")
    return {"name": name, "start": section.reference_start, "teacher_clean_accuracy": round(accuracy, 6)}


def _search_canary(work: Work, name: str, policy: FreezePolicy) -> None:
    """The gate's search on the canary's students in which its backdoor may be: undefended, and as the candidate is."""
    limit = work.policy.threshold("backdoor", "trigger_control")
    wanted = {(c.arm, c.policy): c for c in work.cells if c.model == name}
    arms: list[tuple[str, FreezePolicy]] = [("undefended", "none"), ("defended", policy)]
    for arm, own in arms:
        cell = wanted[(arm, own)]
        if cell.control.value <= limit:
            continue  # training removed the backdoor, or it never transferred: there is nothing to catch
        student = work.students[f"{name}_{arm}_{own}"]
        # No trigger is handed over: the search has to find its own.
        judged = judge(student, work.search, work.few, {}, work.context.params.backdoor, seed=work.seed)
        planted = _control_json(cell.control)
        work.searches.append(searched(judged, model=name, kind="canary", arm=arm, policy=own, planted=planted))
    work.step(f"{name}: searched")


def _scan_teachers(work: Work) -> dict[str, Any]:
    """Patch control and inversion of the chosen teacher beside clean references and canaries: information only."""
    section, seed = work.context.params.backdoor, work.seed
    images = work.teacher_task.part("val", section.search_images // 2, seed)
    test = work.teacher_task.part("test", SCAN_HELD_OUT, seed)
    rows: dict[str, dict[str, Any]] = {}
    for name, model in {"teacher": work.teacher, **work.teachers}.items():
        found = search(
            model, images, test, patch_fraction=section.patch_fraction, search_steps=section.search_steps // 2,
            restarts=1, seed=seed,
        )  # fmt: skip
        inverted = invert(model, images, found, steps=section.search_steps // 3, seed=seed)
        rows[name] = {
            "patch_control": _control_json(found.patch),
            "simple_control": _control_json(found.simple),
            "smallest_sides": list(inverted.sides),
            "smallest_side": inverted.smallest,
        }
    work.step("teachers scanned")
    clean = [rows[n]["patch_control"]["value"] for n in work.teachers if n not in work.canaries]
    return {
        "classes": list(work.spec.classes),
        "side": found.side,
        "works": inverted.works,
        "search_images": len(images[1]),
        "held_out_images": len(test[1]),
        "models": rows,
        "teacher_above_references": sum(rows["teacher"]["patch_control"]["value"] > v for v in clean),
        "references": len(clean),
    }


def _control_json(control: Control) -> dict[str, Any]:
    return {k: v for k, v in control.as_json().items() if k != "by_class"}


def _save(work: Work, folder: Path) -> None:
    """Triggers of all canaries, and the students that the gate goes on to use: the searched ones."""
    for name, canary in work.canaries.items():
        tensors = {"pattern": canary.trigger.pattern.contiguous()}
        metadata = {"top": str(canary.trigger.top), "left": str(canary.trigger.left), "name": name}
        (folder / f"{name}.safetensors").write_bytes(save(tensors, metadata))
    for row in work.searches:
        name = f"{row['model']}_{row['arm']}_{row['policy']}"
        save_model(folder / name, work.students[name], work.student_spec, notes={"kind": row["kind"]})
        row["model_folder"] = str(MODELS / name)


def _tell(context: Context, work: Work, seconds: float) -> None:
    canaries = [r for r in work.searches if r["kind"] == "canary"]
    clean = [r["patch_control"]["value"] for r in work.searches if r["kind"] == "clean"]
    context.say(
        f"{len(canaries)} canary students keep their backdoor; natural patch control of clean references "
        f"{', '.join(f'{v:.2f}' for v in clean)}; {seconds:.0f} s"
    )
    figures: dict[str, float | None] = {"seconds": seconds}
    for cell in work.cells:
        figures[f"{cell.model}.{cell.arm}.{cell.policy}.accuracy"] = cell.accuracy
        if cell.kind == "canary":
            figures[f"{cell.model}.{cell.arm}.{cell.policy}.trigger_control"] = cell.control.value
    context.metrics(figures)


if __name__ == "__main__":
    main("drill", drill)
