"""The work of the table of defences for models that refuse: an ensemble that must agree, and a NULL class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flows.study_cells import study_data, teacher_of
from tasks.backdoor.drill import student_of
from tasks.backdoor.study.cells import TeacherCell
from tasks.data.dataset import Dataset
from tasks.evasion.attacks.apgd import apgd_ce
from tasks.evasion.refusal import REFUSED, agreed, answered, fooled, joined, with_null
from tasks.evasion.sample import as_255
from tasks.evasion.substitute import descendant
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float
from tasks.params import Training
from tasks.stats import proportion

NULL_STEPS = 10  # of the changed images that the extra class learns


@dataclass(frozen=True)
class Refusing:
    """`ensemble`: students of all `teachers`; `null`: a student of the first one with a further class."""

    kind: Literal["ensemble", "null"]
    teachers: tuple[TeacherCell, ...]
    recipe: str  # a Training as JSON
    train_images: int
    test_images: int
    images: int
    own: int
    budgets: tuple[float, ...]
    steps: int

    @property
    def defence(self) -> str:
        return self.kind

    @property
    def name(self) -> str:
        return f"{self.kind} of {self.teachers[0].name}"


@dataclass(frozen=True)
class Model:
    """What stands trial, the attacker's own of its kind, and how answers are read."""

    own: Classifier
    attackers: Classifier
    null: int | None

    def says(self, images: np.ndarray | Tensor) -> np.ndarray:
        return agreed(self.own, images) if self.null is None else answered(self.own, images, null=self.null)


def refuse(cell: Refusing) -> dict[str, Any]:
    task, seed = study_data(cell.teachers[0].data)[1], cell.teachers[0].seed
    model = (_ensemble if cell.kind == "ensemble" else _null)(cell, task, seed)
    images, labels = task.part("test", cell.test_images, seed)
    clean = model.says(images)
    accuracy = proportion(int((clean == labels).sum()), len(labels))
    refused = proportion(int((clean == REFUSED).sum()), len(labels))
    images, labels = task.part("test", cell.images, seed)
    right = model.says(images) == labels
    x, y = as_float(images[right]), labels[right]
    success: dict[str, list[dict[str, Any]]] = {}
    for who, knows in (("white_box", model.own), ("gray_box", model.attackers)):
        for eps in cell.budgets:
            changed = apgd_ce(
                knows, x, torch.from_numpy(y), eps=eps, steps=cell.steps, seed=seed, until_fooled=False,
                null=model.null, bfloat16=True,
            )  # fmt: skip
            wrong = fooled(model.says(changed), y)
            success.setdefault(who, []).append({"budget": as_255(eps), **proportion(int(wrong.sum()), len(y))})
    return {"accuracy": accuracy, "refused": refused, "success": success}


def _ensemble(cell: Refusing, task: Dataset, seed: int) -> Model:
    recipe, classes = Training.model_validate_json(cell.recipe), len(task.classes)
    teachers = [teacher_of(t).model for t in cell.teachers]
    parts = task.part("train", cell.train_images, seed), task.part("val")
    members = [student_of(t, classes, *parts, recipe, policy="all", seed=seed + i) for i, t in enumerate(teachers)]
    own = joined(members)
    kin = [descendant(t, own, task.part("val", cell.own, seed)[0], recipe, seed=seed) for t in teachers]
    return Model(own, joined(kin), None)


def _null(cell: Refusing, task: Dataset, seed: int) -> Model:
    recipe, null = Training.model_validate_json(cell.recipe), len(task.classes)
    teacher = teacher_of(cell.teachers[0]).model
    train, val = (
        with_null(teacher, *part, null=null, steps=NULL_STEPS, seed=seed)
        for part in (task.part("train", cell.train_images, seed), task.part("val"))
    )
    own = student_of(teacher, null + 1, train, val, recipe, policy="all", seed=seed)
    return Model(own, descendant(teacher, own, task.part("val", cell.own, seed)[0], recipe, seed=seed), null)
