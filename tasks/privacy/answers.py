"""What a service may answer instead of its scores, and so takes from whoever asks."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from tasks.errors import GatehouseError

Answer = Literal["scores", "rounded", "top_1", "temperature", "labels"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)
DIGITS, TEMPERATURE = 2, 4.0


def limited(probability: np.ndarray, answer: Answer) -> np.ndarray:
    """Scores (n, classes), rows summing to about 1, as the service lets them out.

    `rounded` keeps two digits, `top_1` the largest score alone (the others share the rest), `temperature` flattens
    (softmax of a quarter of the logits) and `labels` is one-hot.
    """
    if answer not in ANSWERS:
        raise GatehouseError(f"{answer!r} is no kind of answer; known are {', '.join(ANSWERS)}.")
    if answer == "rounded":
        return probability.round(DIGITS)
    if answer == "temperature":
        flat = probability.clip(1e-12) ** (1 / TEMPERATURE)
        return flat / flat.sum(1, keepdims=True)
    classes = probability.shape[1]
    best = np.eye(classes, dtype=bool)[probability.argmax(1)]
    if answer == "top_1":
        most = probability.max(1, keepdims=True)
        return np.where(best, most, (1 - most) / max(classes - 1, 1))
    return best.astype(probability.dtype) if answer == "labels" else probability
