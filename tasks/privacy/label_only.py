"""Membership from labels alone: what a model learnt keeps its answer under more noise (Choquette-Choo 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Answers = Callable[[np.ndarray], np.ndarray]  # records (n, …) -> predicted class indices (n,)
COPIES = 20
AMOUNTS = (0.25, 0.5, 1.0, 2.0)  # of noise, in standard deviations of each feature


def label_only_scores(
    answers: Answers, records: np.ndarray, labels: np.ndarray, *, amounts: Sequence[float] = AMOUNTS,
    copies: int = COPIES, seed: int,
) -> np.ndarray:  # fmt: skip
    """How robustly each record gets its true label, shape (n,), in [0, 1]; copies · len(amounts) + 1 queries each.

    A record that is answered wrongly as it is scores at most as the gap attack has it: below all that are right.

    Args:
        records: float, shape (n, features); noise is scaled by each feature's deviation over them.
        labels: true class indices, shape (n,).
    """
    rng = np.random.default_rng(seed)
    scale = records.std(0, keepdims=True)
    kept = np.zeros(len(records))
    for amount in amounts:
        for _ in range(copies):
            kept += answers(records + amount * scale * rng.normal(size=records.shape)) == labels
    right = answers(records) == labels
    return (right + kept / (copies * len(amounts))) / 2
