"""The work of the X-rays' private cells: heads on a teacher's frozen features with and without privacy, attacked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flows.study_cells import hardware, study_data, teacher_of
from tasks.backdoor.drill import student_of
from tasks.backdoor.study.cells import TeacherCell
from tasks.data.dataset import Dataset
from tasks.models.inference import features, logits
from tasks.models.metrics import evaluate
from tasks.params import Privacy, Training
from tasks.privacy.accounting import advantage_ceiling, delta_for, epsilon, noise_for
from tasks.privacy.attack import attack_candidate, choose_records
from tasks.privacy.dp_sgd import UNCLIPPED, Plan, batches, train_head
from tasks.privacy.whitening import whitening

VERSION = "1"  # raise it when a change of the code changes figures
Proven = dict[str, float | None]
FINE_TUNED, OPEN = "all features trained, no privacy", "head on frozen features, no privacy"


@dataclass(frozen=True)
class PrivateHeads:
    """One teacher's students: all trained, a head alone, and a head by DP-SGD at each ε.

    `privacy` and `recipe` are the sections of params.yaml as JSON; `recipe` is that of the student that trains whole.
    """

    teacher: TeacherCell
    epsilons: tuple[float, ...]
    privacy: str
    recipe: str

    @property
    def name(self) -> str:
        return f"{self.teacher.name}, private heads"


def work(cell: PrivateHeads) -> dict[str, Any]:
    section, seed = Privacy.model_validate_json(cell.privacy), cell.teacher.seed
    teacher, (public, task) = teacher_of(cell.teacher).model, study_data(cell.teacher.data)
    parts = task.part("train"), task.part("val")
    images = np.array(task.images)  # a copy: the file is mapped read-only
    raw = features(teacher, images)
    whiten = whitening(features(teacher, public.part("train")[0]))
    x, y = whiten(raw), torch.from_numpy(task.labels)
    train = np.flatnonzero(task.split == "train")
    rate, steps = batches(len(train), section.batch_size, section.epochs)
    delta = delta_for(len(train), section.target_delta)
    rows = []

    def add(model: str, output: Tensor, proven: Proven) -> None:
        rows.append({"model": model, **proven, **figures(task, output, raw, section, seed)})

    recipe = Training.model_validate_json(cell.recipe)
    student = student_of(teacher, len(task.classes), *parts, recipe, policy="all", seed=seed)
    add(FINE_TUNED, logits(student, images), {"epsilon": None})
    plain = Plan(rate, steps, section.learning_rate, UNCLIPPED, 0.0)
    for target in (None, *cell.epsilons):
        plan: Plan = plain
        proven: Proven = {"epsilon": None}
        if target is not None:
            noise = noise_for(target, sample_rate=rate, steps=steps, delta=delta)
            plan = replace(plain, max_grad_norm=section.max_grad_norm, noise_multiplier=noise)
            proven = _proven(noise, rate, steps, delta)
        head = train_head(x[train], y[train], classes=len(task.classes), plan=plan, seed=seed)
        add(OPEN if target is None else f"head on frozen features, ε = {target:g}", head(x).detach(), proven)
    return {"rows": rows, "records": len(train), "hardware": hardware()}


def _proven(noise: float, rate: float, steps: int, delta: float) -> Proven:
    spent = epsilon(noise_multiplier=noise, sample_rate=rate, steps=steps, delta=delta)
    ceiling = advantage_ceiling(noise_multiplier=noise, sample_rate=rate, steps=steps)
    return {
        "epsilon": round(spent, 6), "delta": delta, "noise_multiplier": noise, "advantage_ceiling": round(ceiling, 6),
    }  # fmt: skip


def figures(task: Dataset, output: Tensor, raw: Tensor, section: Privacy, seed: int) -> dict[str, Any]:
    """Accuracy on the test split, and what the gate's attacks find; `output` and `raw` are of all images."""
    test = task.split == "test"
    own = evaluate(output[test].softmax(1).numpy(), task.labels[test], task.classes, seed=seed)
    sample = choose_records(task.split, task.labels, limit=section.attack_images, seed=seed)
    asked = sample.rows[: len(sample.is_member) + len(sample.known)]
    found = attack_candidate(
        sample, output[asked].numpy(), raw[sample.rows], task.labels[sample.rows], classes=task.classes,
        references=section.references, seed=seed,
    )  # fmt: skip
    return {
        "accuracy": own["accuracy"]["value"],
        "balanced_accuracy": own["balanced_accuracy"]["value"],
        "attacks": {
            a.attack: {
                "auc": a.auc.value,
                "membership_advantage": a.membership_advantage.model_dump(),
                "tpr_at_1_fpr": a.tpr_at_fpr[0].tpr.value,
            }
            for a in (*found.attacks, found.baseline)
        },
        "strongest": found.strongest.attack,
    }
