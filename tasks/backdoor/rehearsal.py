"""The drill in units of work that know nothing of each other, so that they can run side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.backdoor import drill as parts
from tasks.backdoor.control import Control
from tasks.backdoor.drill import Canary, Cell, Labelled
from tasks.backdoor.judge import judge, searched
from tasks.backdoor.triggers import Trigger
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.inference import accuracy_of
from tasks.params import Backdoor, FreezePolicy, Training

ATTEMPTS = 3  # to plant a canary so that it takes, and survives an undefended transfer
Arm = tuple[str, FreezePolicy]
UNDEFENDED: Arm = ("undefended", "none")


@dataclass(frozen=True)
class Ground:
    """What every unit works with; images are uint8 (n, channels, side, side)."""

    teacher: Classifier
    spec: ModelSpec  # of the teacher
    classes: tuple[str, ...]  # of the student
    teacher_train: Labelled
    teacher_val: Labelled
    teacher_test: Labelled
    train: Labelled
    val: Labelled
    search: Labelled
    test: Labelled
    few: Labelled  # of `test`: where a figure need not be fine
    recipe: Training  # the candidate's, at the drill's epochs
    plain: Training  # of undefended students
    policies: tuple[FreezePolicy, ...]
    limit: float  # trigger control from which a student counts as steered
    section: Backdoor
    seed: int


@dataclass(frozen=True)
class Run:
    """A teacher of the drill with its students and what was measured of them."""

    name: str
    teacher: Classifier
    accuracy: float  # of the teacher, balanced
    students: dict[Arm, Classifier] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    canary: Canary | None = None
    success: float = 0.0  # of the canary's trigger in its teacher
    attempts: list[dict[str, float]] = field(default_factory=list)
    recovered: dict[Arm, Trigger] = field(default_factory=dict)  # the worst patch that the search found, by student

    def cell(self, arm: Arm) -> Cell:
        return next(c for c in self.cells if (c.arm, c.policy) == arm)


def rehearse_canary(ground: Ground, canary: Canary) -> Run:
    """Plant a canary, harder if need be, and train its students: undefended, and by the recipe under every policy."""
    attempts: list[dict[str, float]] = []
    for _ in range(ATTEMPTS):
        if attempts:
            canary = canary.stronger()
        teacher = parts.plant(ground.teacher, ground.teacher_train, ground.teacher_val, canary)
        success, accuracy = parts.measure_teacher(teacher, ground.teacher_test, canary)
        student = train_student(ground, teacher, UNDEFENDED, canary.seed)
        cell = _canary_cell(ground, canary, student, UNDEFENDED)
        attempts.append(
            {
                "poison_rate": canary.poison_rate,
                "epochs": canary.epochs,
                "teacher_success": round(success, 6),
                "undefended_control": round(cell.control.value, 6),
            }
        )
        if success >= parts.TOOK and cell.control.value > ground.limit:
            break
    run = Run(canary.name, teacher, accuracy, {UNDEFENDED: student}, [cell], canary, success, attempts)
    for policy in ground.policies:
        arm: Arm = ("defended", policy)
        run.students[arm] = train_student(ground, teacher, arm, canary.seed)
        run.cells.append(_canary_cell(ground, canary, run.students[arm], arm))
    return run


def rehearse_reference(ground: Ground, name: str, *, fresh: bool, epochs: int, seed: int) -> Run:
    """A clean teacher and its undefended student."""
    teacher = parts.clean_reference(
        ground.teacher, ground.spec, ground.teacher_train, ground.teacher_val, fresh=fresh, epochs=epochs, seed=seed
    )
    student = train_student(ground, teacher, UNDEFENDED, seed)
    return Run(name, teacher, accuracy_of(teacher, ground.teacher_test), {UNDEFENDED: student})


def judge_reference(
    ground: Ground, run: Run, policy: FreezePolicy, triggers: Mapping[str, Trigger], *, seed: int
) -> dict[str, Any]:
    """Train the reference's student as the candidate is trained, and put the gate's question to it."""
    arm: Arm = ("defended", policy)
    run.students[arm] = train_student(ground, run.teacher, arm, seed)
    for own, student in run.students.items():
        for trigger in triggers.values():
            accuracy, control, _ = parts.measure_student(student, ground.test, trigger, None)
            run.cells.append(Cell(run.name, "clean", own[0], own[1], accuracy, control, None))
    judged = judge(run.students[arm], ground.search, ground.test, triggers, ground.section, seed=seed)
    return searched(judged, model=run.name, kind="clean", arm=arm[0], policy=policy)


def search_canary(ground: Ground, run: Run, arm: Arm) -> dict[str, Any]:
    """The gate's own search on a student in which a canary lives. It is given no trigger: it has to find its own.

    What it found is kept in `run.recovered`.
    """
    judged = judge(run.students[arm], ground.search, ground.few, {}, ground.section, seed=ground.seed)
    planted = figure(run.cell(arm).control)
    run.recovered[arm] = judged.found.worst_patch().trigger
    return searched(judged, model=run.name, kind="canary", arm=arm[0], policy=arm[1], planted=planted)


def train_student(ground: Ground, teacher: Classifier, arm: Arm, seed: int) -> Classifier:
    recipe = ground.recipe if arm[0] == "defended" else ground.plain
    return parts.student_of(
        teacher, len(ground.classes), ground.train, ground.val, recipe, policy=arm[1], seed=seed
    )  # fmt: skip


def figure(control: Control) -> dict[str, Any]:
    return {k: v for k, v in control.as_json().items() if k != "by_class"}


def _canary_cell(ground: Ground, canary: Canary, student: Classifier, arm: Arm) -> Cell:
    target = parts.same_class(ground.spec.classes[canary.target_class], ground.classes)
    accuracy, control, success = parts.measure_student(student, ground.test, canary.trigger, target)
    return Cell(canary.name, "canary", arm[0], arm[1], accuracy, control, success)
