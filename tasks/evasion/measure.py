"""Attacks on a candidate over rising budgets: who is fooled, when, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.errors import GatehouseError
from tasks.evasion.art_adapter import pgd
from tasks.evasion.attacks.mimicry import mimic
from tasks.evasion.attacks.noise import random_noise
from tasks.evasion.threat_models import GRAY_BOX, NOISE, THREAT_MODELS, WHITE_BOX
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.inference import as_float, logits, require_finite

Progress = Callable[[str], None]
SUREST = 10  # pictures of each class that an attacker chooses from


@dataclass(frozen=True)
class Sample:
    """The images that are attacked: those of `n` test images that the candidate gets right."""

    n: int
    rows: np.ndarray  # int (k,), which of the n
    x: Tensor  # float32 (k, channels, side, side) in [0, 1]
    y: Tensor  # int64 (k,)
    targets: Tensor  # int (k,): row in x of the picture of another class that each image shall mimic; −1 where none is


@dataclass(frozen=True)
class Curve:
    """One threat model over the budgets. `fooled` counts any wrong answer, `targeted` only the one that was wanted."""

    threat_model: str
    budgets: tuple[float, ...]
    fooled: np.ndarray  # bool (budgets, k)
    targeted: np.ndarray | None = None  # bool (budgets, k)


@dataclass(frozen=True)
class Measured:
    """Everything that was measured on a candidate. `mimicked` holds the gray-box images, which are crafted once."""

    sample: Sample
    curves: dict[str, Curve]
    mimicked: list[Tensor]  # one a budget, (k, channels, side, side)
    noisy: list[Tensor]
    pgd_images: list[Tensor]


def check_pair(candidate: ModelSpec, teacher: ModelSpec) -> None:
    """Raises GatehouseError where the two take different images: nothing could be crafted on one for the other."""
    ours, theirs = (candidate.channels, candidate.image_size), (teacher.channels, teacher.image_size)
    if ours != theirs:
        raise GatehouseError(
            f"The candidate takes images of {ours[0]} channel(s) and {ours[1]} pixels, its teacher {theirs[0]} and "
            f"{theirs[1]}: attacks cannot be carried over; train the candidate again from models/teacher."
        )


def choose_sample(candidate: Classifier, images: np.ndarray, labels: np.ndarray, *, seed: int, source: str) -> Sample:
    """The images that the candidate gets right, and for each a picture of another class to mimic.

    The attacker takes pictures that the candidate itself is surest of, which he learns by asking it. Measured, that
    raises the success of mimicry from .5 to .7 over pictures taken at random.

    Args:
        images, labels: uint8 (n, channels, side, side) and int64 (n,).
        source: names the candidate in the error where its outputs are not finite.
    """
    output = require_finite(logits(candidate, images), source=source)
    rows = np.flatnonzero(output.argmax(1).numpy() == labels)
    own, sure = labels[rows], output.softmax(1).amax(1).numpy()[rows]
    surest = {c: np.flatnonzero(own == c)[np.argsort(-sure[own == c], kind="stable")[:SUREST]] for c in np.unique(own)}
    rng = np.random.default_rng(seed)
    targets = np.full(len(rows), -1)
    for i, label in enumerate(own):
        if others := [c for c in surest if c != label]:
            targets[i] = rng.choice(surest[rng.choice(others)])
    return Sample(len(labels), rows, as_float(images[rows]), torch.from_numpy(own), torch.from_numpy(targets))


def measure(
    candidate: Classifier,
    teacher: Classifier,
    sample: Sample,
    *,
    budgets: tuple[float, ...],
    steps: int,
    seed: int,
    bfloat16: bool = False,
    progress: Progress = lambda _: None,
) -> Measured:
    """Attack the sample under every threat model and budget.

    Args:
        budgets: rising, L-infinity, pixel units of [0, 1].
        steps: gradient steps of PGD and mimicry.
        seed: of random starts and of the noise.
        bfloat16: gradients by bfloat16 autocast; answers are always asked for in float32.
    """
    x, y = sample.x, sample.y
    aims = sample.targets.clamp(min=0)
    crafted: dict[str, list[Tensor]] = {model.name: [] for model in THREAT_MODELS}
    for eps in budgets:
        progress(f"PGD at {as_255(eps)}")
        crafted[WHITE_BOX.name].append(pgd(candidate, x, y, eps=eps, steps=steps, seed=seed, bfloat16=bfloat16))
        progress(f"mimicry at {as_255(eps)}")
        wanted = x[aims] if len(x) else x
        crafted[GRAY_BOX.name].append(mimic(teacher, x, wanted, eps=eps, steps=steps, bfloat16=bfloat16))
        crafted[NOISE.name].append(random_noise(x, eps=eps, seed=seed))
    curves = {
        name: judge(candidate, images, sample, budgets, name, aimed=name == GRAY_BOX.name)
        for name, images in crafted.items()
    }
    return Measured(sample, curves, crafted[GRAY_BOX.name], crafted[NOISE.name], crafted[WHITE_BOX.name])


def judge(
    model: Classifier,
    crafted: list[Tensor],
    sample: Sample,
    budgets: tuple[float, ...],
    threat_model: str,
    *,
    aimed: bool = False,
) -> Curve:
    """What a model answers to crafted images, one batch of them a budget."""
    answers = [logits(model, images).argmax(1) for images in crafted]
    fooled = np.stack([(a != sample.y).numpy() for a in answers])
    targeted = None
    if aimed:
        known = sample.targets >= 0
        wanted = sample.y[sample.targets.clamp(min=0)] if len(sample.y) else sample.y
        targeted = np.stack([((a == wanted) & known).numpy() for a in answers])
    return Curve(threat_model, budgets, fooled, targeted)


def as_255(eps: float) -> str:
    """A budget as people in the field write it: `4/255`."""
    return f"{eps * 255:.3g}/255"
