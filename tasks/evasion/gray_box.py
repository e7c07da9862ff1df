"""Every attack that needs the teacher alone, side by side: what each makes of a student, at each budget.

The attacker holds the teacher's weights and a few pictures of each class of the student's (study, section 3.2.1). He
may ask the student a few times, to choose among his own attempts; he has no gradients of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from tasks.evasion.attacks.activation import activate
from tasks.evasion.attacks.mimicry import mimic, repel
from tasks.evasion.attacks.noise import random_noise
from tasks.evasion.reference import copied_students
from tasks.evasion.sample import Sample
from tasks.evasion.substitute import descendant, transfer
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, features, logits
from tasks.params import Training
from tasks.stats import proportion

UNITS = 8  # features that activation tries, those that vary most over the attacker's pictures
TRIED_ON = 16  # of his own pictures, before he settles for one of them: UNITS * TRIED_ON queries
Craft = Callable[[float], Tensor]  # budget -> changed images of the sample
Labelled = tuple[np.ndarray, np.ndarray]


def attacks(
    teacher: Classifier, student: Classifier, sample: Sample, own: Labelled, recipe: Training, *, steps: int, seed: int,
    bfloat16: bool,
) -> dict[str, Craft]:  # fmt: skip
    """By name, how each attack changes the sample's images at a budget.

    Args:
        student: is asked for answers alone: by activation to choose its feature, and to teach a substitute.
        own: the attacker's pictures, uint8 (n, channels, side, side) and labels (n,) of the student's classes.
        recipe: how the student was trained, which the attacker is taken to know.
    """
    x, targets = sample.x, sample.x[sample.targets.clamp(min=0)] if len(sample.x) else sample.x
    inner = teacher.block_names[-2]
    classes, bare = student.head.out_features, teacher
    if student.guard:  # the attacker knows the defence, and puts it before the teacher too
        teacher = copy.deepcopy(teacher)
        teacher.guard = copy.deepcopy(student.guard)
    (guess,) = copied_students(teacher, *own, classes, count=1, seed=seed)
    kin = descendant(teacher, student, own[0], recipe, seed=seed)
    end = {"steps": steps, "seed": seed, "bfloat16": bfloat16}

    def activation(eps: float) -> Tensor:
        unit = _unit(teacher, student, own, eps=eps, steps=steps, bfloat16=bfloat16)
        return activate(teacher, x, unit, eps=eps, steps=steps, bfloat16=bfloat16)

    return {
        "mimicry": lambda eps: mimic(teacher, x, targets, eps=eps, steps=steps, bfloat16=bfloat16),
        "inner_mimicry": lambda eps: mimic(bare, x, targets, eps=eps, steps=steps, block=inner, bfloat16=bfloat16),
        "repulsion": lambda eps: repel(teacher, x, eps=eps, steps=steps, seed=seed, bfloat16=bfloat16),
        "activation": activation,
        "own_head": lambda eps: transfer(guess, sample, eps=eps, **end),  # type: ignore[arg-type]
        "own_student": lambda eps: transfer(kin, sample, eps=eps, **end),  # type: ignore[arg-type]
    }


def _unit(teacher: Classifier, student: Classifier, own: Labelled, *, eps: float, steps: int, bfloat16: bool) -> int:
    """The feature whose activation moves most of the student's answers to the attacker's own pictures."""
    varied = features(teacher, own[0]).std(0).argsort(descending=True)[:UNITS].tolist()
    few = as_float(own[0][:TRIED_ON])
    before = logits(student, few).argmax(1)

    def moved(unit: int) -> int:
        changed = activate(teacher, few, unit, eps=eps, steps=steps, bfloat16=bfloat16)
        return int((logits(student, changed).argmax(1) != before).sum())

    return int(max(varied, key=moved))


def measure_gray_box(
    teacher: Classifier, student: Classifier, sample: Sample, own: Labelled, recipe: Training, *,
    budgets: tuple[float, ...], steps: int, seed: int, bfloat16: bool,
) -> dict[str, Any]:  # fmt: skip
    """Success of every attack at every budget, JSON-ready: the share of images, right before, that it makes wrong.

    Returns:
        attack -> list over the budgets of {"value", "low", "high", "n"} (95 %, Clopper–Pearson); noise stands beside.
    """
    found = attacks(teacher, student, sample, own, recipe, steps=steps, seed=seed, bfloat16=bfloat16)
    found["noise"] = lambda eps: random_noise(sample.x, eps=eps, seed=seed)

    def success(changed: Tensor) -> dict[str, Any]:
        return proportion(int((logits(student, changed).argmax(1) != sample.y).sum()), len(sample.y))

    return {name: [success(craft(eps)) for eps in budgets] for name, craft in found.items()}
