"""What is served: a loaded model, what it is called, and how much of its answer the policy reveals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.inference import probabilities

Output = Literal["scores", "rounded", "labels"]


@dataclass(frozen=True)
class Champion:
    """A model whose evidence was verified. `sha256` is of its weights file; `output` comes from its signed policy."""

    model: Classifier
    spec: ModelSpec
    name: str
    version: str
    sha256: str
    output: Output


@dataclass(frozen=True)
class Answer:
    label: str
    score: float  # softmax of the label, rounded to two digits: what the log keeps
    revealed: dict[str, Any]  # what the client gets


def answer(champion: Champion, images: np.ndarray) -> list[Answer]:
    """Score float images (n, channels, side, side) in [0, 1] and reveal what the policy allows."""
    scores = probabilities(champion.model, torch.from_numpy(images)).numpy().astype(float)
    best = scores.argmax(1)
    classes = champion.spec.classes
    return [
        Answer(classes[i], round(row[i], 2), reveal(classes, row, champion.output))
        for i, row in zip(best, scores, strict=True)
    ]


def reveal(classes: tuple[str, ...], scores: np.ndarray, output: Output) -> dict[str, Any]:
    """The label, and each class's softmax: `scores` to six digits, `rounded` to two, `labels` not at all."""
    label = classes[int(scores.argmax())]
    if output == "labels":
        return {"label": label}
    digits = 6 if output == "scores" else 2
    return {"label": label, "scores": {c: round(float(s), digits) for c, s in zip(classes, scores, strict=True)}}
