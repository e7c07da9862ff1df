"""Attribute inference: what a model's answers tell of a column of somebody whose other columns are known.

The attack asks for the record once with each value and takes the one under which the true label gets the larger score
(Fredrikson 2014; Mehnaz 2022). What could have been guessed without the model stands beside it: only what goes beyond
that, and beyond the same figure for people who were not among the training records, is the model's doing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from tasks.errors import GatehouseError
from tasks.models.metrics import balanced_accuracy

Ask = Callable[[np.ndarray], np.ndarray]  # records (n, width) -> scores (n, classes), as the service lets them out


@dataclass(frozen=True)
class AttributeFigures:
    """Balanced accuracies of guessing a column of two values, .5 is guessing blindly."""

    members: float
    others: float
    without_the_model: float  # on members, from the other columns and the label


def infer_attribute(
    ask: Ask,
    members: tuple[np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray],
    known: tuple[np.ndarray, np.ndarray],
    *,
    column: int,
) -> AttributeFigures:
    """Guess one column of members and of others; each part is records (n, width) and labels (n,).

    Args:
        known: the attacker's own records, of which he knows everything.
        column: holds two values.

    Raises:
        GatehouseError: the column does not hold two values among the members, the others or what is known.
    """
    values = np.unique(known[0][:, column])
    parts = (members, others, known)
    if len(values) != 2 or any(not np.array_equal(np.unique(p[0][:, column]), values) for p in parts):
        raise GatehouseError(f"Column {column} does not hold the same two values in every part.")
    common = int((known[0][:, column] == values[1]).mean() > 0.5)

    def guessed(part: tuple[np.ndarray, np.ndarray]) -> float:
        x, y = part
        scores = np.empty((2, len(y)))
        for i, value in enumerate(values):
            asked = x.copy()
            asked[:, column] = value
            scores[i] = ask(asked)[np.arange(len(y)), y]
        guess = np.where(scores[0] == scores[1], common, scores.argmax(0))
        return balanced_accuracy(guess, (x[:, column] == values[1]).astype(int))

    def described(part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.column_stack([np.delete(part[0], column, 1), part[1]])

    blind = LogisticRegression(max_iter=1000, class_weight="balanced")
    blind.fit(described(known), known[0][:, column] == values[1])
    without = balanced_accuracy(blind.predict(described(members)), members[0][:, column] == values[1])
    return AttributeFigures(guessed(members), guessed(others), without)
