"""The work of the table of defences: a student trained under one, attacked by somebody who knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.refusing_cells import Refusing, refuse
from flows.study_cells import hardware, spec_of, study_data, teacher_of
from tasks.backdoor.drill import student_of
from tasks.backdoor.study.cells import TeacherCell
from tasks.evasion.measure import Attacker, Effort, Measured, measure
from tasks.evasion.sample import as_255, choose_sample
from tasks.evasion.smoothing import certified_accuracy, certify
from tasks.evasion.threat_models import THREAT_MODELS
from tasks.models.checkpoints import digest
from tasks.models.guards import GuardName, new_guard
from tasks.models.inference import accuracy_of, logits
from tasks.params import FreezePolicy, Training
from tasks.stats import proportion

VERSION = "1"  # raise it when a change of the code changes figures
SIGMA, RADII = 0.06, (0.0, 0.05, 0.1, 0.2)  # of smoothing, L2 in [0, 1]
CERTIFIED, SAMPLES = 60, 400  # images, and answers for each


@dataclass(frozen=True)
class Defended:
    """A teacher's student under one defence. `recipe` is a Training as JSON."""

    teacher: TeacherCell
    defence: str
    trainable: FreezePolicy
    recipe: str
    guard: GuardName
    train_images: int
    test_images: int
    images: int  # attacked, of the test split
    own: int  # pictures in the attacker's hands
    budgets: tuple[float, ...]
    steps: int
    queries: int

    @property
    def name(self) -> str:
        return f"{self.teacher.name}, {self.defence}"


def work(cell: Any) -> dict[str, Any]:
    return ACTS[type(cell)](cell) | {"hardware": hardware()}


def defend(cell: Defended) -> dict[str, Any]:
    teacher, seed = teacher_of(cell.teacher).model, cell.teacher.seed
    task = study_data(cell.teacher.data)[1]
    recipe = Training.model_validate_json(cell.recipe)
    parts = task.part("train", cell.train_images, seed), task.part("val")
    student = student_of(teacher, len(task.classes), *parts, recipe, policy=cell.trainable, seed=seed)
    student.guard = new_guard(cell.guard, cell.teacher.image_size, seed=seed)
    test = task.part("test", cell.test_images, seed)
    sample = choose_sample(student, *task.part("test", cell.images, seed), seed=seed, source=cell.name)
    spec = spec_of(cell.teacher).model_copy(update={"classes": task.classes, "guard": cell.guard})
    # The attacker's pictures are of the validation split: none that the student learnt from.
    attacker = Attacker(teacher, spec, task.part("val", cell.own, seed), recipe)
    measured = measure(student, attacker, sample, Effort(cell.budgets, cell.steps, cell.queries, seed, bfloat16=True))
    certified = certify(student, sample.x[:CERTIFIED], sigma=SIGMA, samples=SAMPLES, seed=seed)
    return {
        "sha256": digest(student),
        "accuracy": _accuracy(student, test),
        "balanced_accuracy": round(accuracy_of(student, test), 6),
        "success": _success(measured),
        "robust": _robust(measured),
        "by_attack": {name: proportion(int(f.sum()), len(f)) for name, f in measured.by_attack.items()},
        "certified": certified_accuracy(certified, sample.y[:CERTIFIED].numpy(), RADII),
    }


def _accuracy(student: Any, test: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return proportion(int((logits(student, test[0]).argmax(1).numpy() == test[1]).sum()), len(test[1]))


def _success(measured: Measured) -> dict[str, list[dict[str, Any]]]:
    """By threat model, over the budgets: the share of the images that were right which it makes wrong."""
    return {
        threat.name: [
            {"budget": as_255(eps), "strongest": attack, **proportion(int(fooled.sum()), len(fooled))}
            for eps, attack, fooled in zip(curve.budgets, curve.strongest, curve.fooled, strict=True)
        ]
        for threat in THREAT_MODELS
        for curve in [measured.curves[threat.name]]
    }


def _robust(measured: Measured) -> list[dict[str, Any]]:
    """Accuracy on all images that were drawn, under the white box, over the budgets."""
    curve, n = measured.curves["white_box"], measured.sample.n
    return [
        {"budget": as_255(eps), **proportion(int((~fooled).sum()), n)}
        for eps, fooled in zip(curve.budgets, curve.fooled, strict=True)
    ]


ACTS: dict[type, Callable[[Any], dict[str, Any]]] = {Defended: defend, Refusing: refuse}
