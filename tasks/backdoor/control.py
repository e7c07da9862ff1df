"""How far a pattern steers a classifier: attack success, and control over every class.

A backdoor that transfers may move to another class than the attacker's, so success on the attacker's own class is not
enough: control asks of every class how far the pattern raises it above its clean rate, and takes the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.stats import clopper_pearson, paired_difference


@dataclass(frozen=True)
class Success:
    """The study's attack success rate: triggered images not of the target class that are given the target class.

    `clean_rate` is the share of the same images that the model gives the target class without the trigger.
    """

    value: float
    low: float
    high: float
    clean_rate: float
    n: int


@dataclass(frozen=True)
class Control:
    """Control of the worst class, in [−1, 1], with a simultaneous 95 % interval; `by_class` holds every class's figure.

    `n` is the number of images behind the worst class's figure, those whose true class is another.
    """

    value: float
    low: float
    high: float
    worst_class: int
    n: int
    by_class: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        figures = {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return figures | {"by_class": [round(v, 6) for v in self.by_class]}


def attack_success_rate(
    clean: np.ndarray, triggered: np.ndarray, labels: np.ndarray, *, target_class: int, confidence: float = 0.95
) -> Success:
    """Success of a trigger aimed at one class; `clean` and `triggered` are predicted classes, shape (n,).

    Images already of the target class are left out of numerator and denominator. NaN where none is left.
    """
    others = labels != target_class
    n = int(others.sum())
    hits = int((triggered[others] == target_class).sum())
    low, high = clopper_pearson(hits, n, confidence)
    if n == 0:
        return Success(float("nan"), low, high, float("nan"), 0)
    return Success(hits / n, low, high, float((clean[others] == target_class).mean()), n)


def trigger_control(
    clean: np.ndarray, triggered: np.ndarray, labels: np.ndarray, *, classes: int, confidence: float = 0.95
) -> Control:
    """For every class c, over images of other classes: rate(predicted c | trigger) − rate(predicted c | clean).

    The value is the worst class's. The differences are paired, and each class's interval is taken at a confidence of
    1 − (1 − confidence) / classes (Bonferroni), so that [largest low end, largest high end] covers the worst class,
    whichever it is.

    Args:
        clean, triggered: predicted classes of the same images without and with the trigger, shape (n,).
        labels: true classes, shape (n,).
    """
    return class_controls(clean, [triggered] * classes, labels, confidence=confidence)


def class_controls(
    clean: np.ndarray, triggered: Sequence[np.ndarray], labels: np.ndarray, *, confidence: float = 0.95
) -> Control:
    """As `trigger_control`, with a pattern of its own for every class: `triggered[c]` belongs to the one for class c.

    Classes of which no image of another class exists are left out; NaN where that leaves none.
    """
    single = 1 - (1 - confidence) / len(triggered)
    values, lows, highs, counts = [], [], [], []
    for c, predicted in enumerate(triggered):
        others = labels != c
        after, before = predicted[others] == c, clean[others] == c
        counts.append(int(others.sum()))
        values.append(float(after.mean() - before.mean()) if others.any() else float("nan"))
        low, high = paired_difference(after, before, single) if others.any() else (float("nan"), float("nan"))
        lows.append(low)
        highs.append(high)
    if all(np.isnan(values)):
        return Control(float("nan"), float("nan"), float("nan"), 0, 0, tuple(values))
    worst = int(np.nanargmax(values))
    return Control(values[worst], float(np.nanmax(lows)), float(np.nanmax(highs)), worst, counts[worst], tuple(values))


def class_rises(clean: np.ndarray, triggered: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Control of each class without intervals, shape (classes,); −inf for a class beside which there is no other."""
    out = np.full(classes, -np.inf)
    for c in range(classes):
        others = labels != c
        if others.any():
            out[c] = (triggered[others] == c).mean() - (clean[others] == c).mean()
    return out


def der(*, success_before: float, success_after: float, accuracy_before: float, accuracy_after: float) -> float:
    """Defence effectiveness rating (Zhu 2023, BackdoorBench), in [0, 1]; .5 is a defence that changed nothing.

    (max(0, fall of the attack's success) − max(0, fall of the clean accuracy) + 1) / 2; all four in [0, 1].
    """
    won = max(0.0, success_before - success_after)
    lost = max(0.0, accuracy_before - accuracy_after)
    return (won - lost + 1) / 2
