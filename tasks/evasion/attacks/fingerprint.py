"""Fingerprinting (Wang 2018, section 5): which of the public teachers does a student descend from? Queries alone tell.

Images in which a teacher's features are all 0 leave nothing of its student's answers but the head's biases: it answers
all of them alike. To a student of another teacher they are images like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from tasks.evasion.attacks.network import Attacked
from tasks.models.architectures import Classifier
from tasks.models.inference import probabilities

Answers = Callable[[np.ndarray], np.ndarray]  # uint8 images (n, channels, side, side) -> scores (n, classes), sum 1
STEPS, RATE = 200, 0.2
FLOOR = 1e-6  # of a score: services round
CERTAIN = 0.9999
CERTAINLY_NOT = float(-np.log(FLOOR))  # the largest dispersion that scores above the floor can have


def blank_images(
    teacher: Classifier, *, channels: int, side: int, count: int, steps: int = STEPS, seed: int
) -> np.ndarray:
    """uint8 images, from noise, whose penultimate features in the teacher are as near 0 as Adam brings them."""
    net, generator = Attacked(teacher, bfloat16=False), torch.Generator().manual_seed(seed)
    free = torch.randn((count, channels, side, side), generator=generator).requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=RATE)
    best, least = torch.zeros_like(free), torch.full((count,), torch.inf)
    for _ in range(steps):
        # Rounded as a picture file rounds, and the gradient passed through: what is sent is what was optimised.
        image = free.sigmoid()
        image = image + ((image * 255).round() / 255 - image).detach()
        size = net.features(image).square().sum(1)
        better = size.detach() < least
        best = torch.where(better.view(-1, 1, 1, 1), image.detach(), best)
        least = torch.where(better, size.detach(), least)
        optimiser.zero_grad()
        size.sum().backward()
        optimiser.step()
    return (best * 255).round().to(torch.uint8).numpy()


def dispersion(scores: np.ndarray) -> float:
    """Mean standard deviation over images of each class's log-score, centred on the image's mean; scores (n, classes).

    The paper takes the Gini coefficient of each answer, which is small only where the head has no biases to speak of;
    how much answers differ from image to image does not depend on them. Answers that are certain do not vary either,
    but no biases make them: where most are, the images are not blank, and the dispersion is the largest there is.
    """
    if len(scores) and np.mean(scores.max(1) > CERTAIN) > 0.5:
        return CERTAINLY_NOT
    logs = np.log(scores.clip(FLOOR, 1))
    return float((logs - logs.mean(1, keepdims=True)).std(0).mean())


def fingerprint(student: Answers, probes: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Dispersion of the student's scores over each teacher's blank images; the least names the teacher."""
    return {name: dispersion(student(images)) for name, images in probes.items()}


def named(dispersions: Mapping[str, float]) -> str:
    """The teacher that the fingerprint points at."""
    return min(dispersions, key=lambda name: dispersions[name])


def confusion(
    students: Mapping[str, Classifier], lineup: Mapping[str, Classifier], *, channels: int, side: int, count: int,
    steps: int = STEPS, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Each student asked who its teacher is, among the networks of `lineup`; JSON-ready, `count` queries for each.

    Returns:
        A row a student: its name, the network that is `named`, and the `dispersions` by network.
    """
    made = {"channels": channels, "side": side, "count": count, "steps": steps, "seed": seed}
    probes = {name: blank_images(network, **made) for name, network in lineup.items()}
    found = {name: fingerprint(answers_of(student), probes) for name, student in students.items()}
    return [
        {"student": name, "named": named(row), "dispersions": {n: round(v, 6) for n, v in row.items()}}
        for name, row in found.items()
    ]


def answers_of(model: Classifier) -> Answers:
    """A model as its service answers: scores of uint8 images."""
    return lambda images: probabilities(model, images).numpy()
