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
from tasks.models.inference import as_float, features, logits
from tasks.models.metrics import balanced_accuracy, evaluate
from tasks.params import Privacy, Training
from tasks.privacy.accounting import advantage_ceiling, delta_for, epsilon, noise_for
from tasks.privacy.attack import attack_candidate, choose_records
from tasks.privacy.dp_sgd import UNCLIPPED, Plan, batches, train_head
from tasks.privacy.private_network import AT_ONCE, group_norm_cnn, train_privately
from tasks.privacy.stacks import Walks, train_stacks
from tasks.privacy.whitening import Whitening, whitening

VERSION = "2"  # raise it when a change of the code changes figures
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


@dataclass(frozen=True)
class HeadRates:
    """Heads at one ε that differ in their learning rate, a multiple of the one in params.yaml each."""

    teacher: TeacherCell
    epsilon: float
    privacy: str
    factors: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.teacher.name}, learning rates at ε = {self.epsilon:g}"


@dataclass(frozen=True)
class PrivateNetwork:
    """A network with group normalisation that learns the student's task from fresh weights by DP-SGD, at one ε."""

    teacher: TeacherCell  # names the data and the seed; its weights are what attackers measure features with
    epsilon: float
    privacy: str
    width: int
    batch_size: int
    learning_rate: float
    epochs: int

    @property
    def name(self) -> str:
        return f"seed {self.teacher.seed}, network with group normalisation at ε = {self.epsilon:g}"


Cell = PrivateHeads | HeadRates | PrivateNetwork


def work(cell: Cell) -> dict[str, Any]:
    if isinstance(cell, PrivateHeads):
        found = _heads(cell)
    elif isinstance(cell, HeadRates):
        found = _rates(cell)
    else:
        found = _network(cell)
    return found | {"hardware": hardware()}


def public_whitening(cell: TeacherCell) -> Whitening:
    """Of the teacher's features, by statistics of the teacher's own, public images."""
    return whitening(features(teacher_of(cell).model, study_data(cell.data)[0].part("train")[0]))


def _rates(cell: HeadRates) -> dict[str, Any]:
    """Balanced accuracy on the validation split, as a search would see it, and on the test split."""
    section, teacher = Privacy.model_validate_json(cell.privacy), teacher_of(cell.teacher).model
    whiten = public_whitening(cell.teacher)
    task = study_data(cell.teacher.data)[1]
    parts = {name: task.part(name) for name in ("train", "val", "test")}
    x = {name: whiten(features(teacher, images)) for name, (images, _) in parts.items()}
    y = torch.from_numpy(parts["train"][1])
    rate, steps = batches(len(y), section.batch_size, section.epochs)
    noise = noise_for(cell.epsilon, sample_rate=rate, steps=steps, delta=delta_for(len(y), section.target_delta))
    count = len(cell.factors)
    walks = Walks(
        np.full(count, section.max_grad_norm), np.full(count, noise), section.learning_rate * np.array(cell.factors)
    )
    heads = train_stacks(
        x["train"], y, walks, classes=len(task.classes), sample_rate=rate, steps=steps, momentum=0.9,
        diverged="zero", seed=cell.teacher.seed,
    )  # fmt: skip
    right = {
        name: [round(balanced_accuracy(z.argmax(1).numpy(), parts[name][1]), 6) for z in heads(x[name])]
        for name in ("val", "test")
    }
    return {"factors": list(cell.factors), **right}


def _heads(cell: PrivateHeads) -> dict[str, Any]:
    section, seed = Privacy.model_validate_json(cell.privacy), cell.teacher.seed
    teacher, task = teacher_of(cell.teacher).model, study_data(cell.teacher.data)[1]
    parts = task.part("train"), task.part("val")
    images = np.array(task.images)  # a copy: the file is mapped read-only
    raw = features(teacher, images)
    x, y = public_whitening(cell.teacher)(raw), torch.from_numpy(task.labels)
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
    return {"rows": rows, "records": len(train)}


def _network(cell: PrivateNetwork) -> dict[str, Any]:
    section, seed = Privacy.model_validate_json(cell.privacy), cell.teacher.seed
    task = study_data(cell.teacher.data)[1]
    images = as_float(np.array(task.images))
    train = np.flatnonzero(task.split == "train")
    rate, steps = batches(len(train), cell.batch_size, cell.epochs)
    delta = delta_for(len(train), section.target_delta)
    noise = noise_for(cell.epsilon, sample_rate=rate, steps=steps, delta=delta)
    network = train_privately(
        group_norm_cnn(len(task.classes), images.shape[1], width=cell.width, seed=seed),
        images[train], torch.from_numpy(task.labels[train]), seed=seed,
        plan=Plan(rate, steps, cell.learning_rate, section.max_grad_norm, noise),
    )  # fmt: skip
    with torch.no_grad():
        output = torch.cat([network(part) for part in images.split(AT_ONCE)])
    raw = features(teacher_of(cell.teacher).model, np.array(task.images))
    row = {
        "model": f"network with group normalisation, ε = {cell.epsilon:g}",
        **_proven(noise, rate, steps, delta),
        **figures(task, output, raw, section, seed),
    }
    return {"rows": [row], "records": len(train)}


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
