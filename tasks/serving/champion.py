"""What is served: a loaded model, what it is called, and how much of its answer the policy reveals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.models.architectures import Classifier, ModelSpec
from tasks.serving.guards.pipeline import Guard, refusals, see

Output = Literal["scores", "rounded", "labels"]
# All that a client learns of a refused image: the same whichever guard refused it, and no score to search by.
REFUSED: dict[str, Any] = {"label": None, "refused": True}


@dataclass(frozen=True)
class Champion:
    """A model whose evidence was verified. `sha256` is of its weights file; `output` comes from its signed policy."""

    model: Classifier
    spec: ModelSpec
    name: str
    version: str
    sha256: str
    output: Output
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True)
class Answer:
    label: str  # what the model says, also where it is refused: the log keeps it
    score: float  # softmax of the label, rounded to two digits: what the log keeps
    revealed: dict[str, Any]  # what the client gets
    refused_by: tuple[str, ...] = ()  # names of guards: for the log, never for the client


def answer(champion: Champion, images: np.ndarray) -> list[Answer]:
    """Score float images (n, channels, side, side) in [0, 1] and reveal what policy and guards allow."""
    seen = see(champion.model, images)
    classes = champion.spec.classes
    return [
        Answer(
            classes[int(row.argmax())],
            round(float(row.max()), 2),
            dict(REFUSED) if by else reveal(classes, row, champion.output),
            by,
        )
        for row, by in zip(seen.scores, refusals(champion.guards, seen), strict=True)
    ]


def reveal(classes: tuple[str, ...], scores: np.ndarray, output: Output) -> dict[str, Any]:
    """The label, and each class's softmax: `scores` to six digits, `rounded` to two, `labels` not at all."""
    label = classes[int(scores.argmax())]
    if output == "labels":
        return {"label": label}
    digits = 6 if output == "scores" else 2
    return {"label": label, "scores": {c: round(float(s), digits) for c, s in zip(classes, scores, strict=True)}}
