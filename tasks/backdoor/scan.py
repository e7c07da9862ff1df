"""The cheap half of the search: simple patterns over places and sizes, without a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tasks.backdoor.control import class_rises
from tasks.backdoor.net import fast_predictions
from tasks.backdoor.patterns import PLACES, position, quantise, sides, simple_patterns
from tasks.backdoor.triggers import Trigger
from tasks.models.architectures import Classifier

SCAN_IMAGES = 64
FINALISTS = 5


@dataclass(frozen=True)
class Patch:
    """A patch that the search chose for one class. `search_control` was measured on the images it was chosen on."""

    target_class: int
    trigger: Trigger
    pattern: str  # a name of `simple_patterns`, or "optimised"
    place: str
    side: int
    search_control: float

    def as_json(self) -> dict[str, Any]:
        return {
            "target_class": self.target_class,
            "pattern": self.pattern,
            "place": self.place,
            "side": self.side,
            "search_control": round(self.search_control, 6),
        }


def scan(
    net: Classifier, x: Tensor, labels: np.ndarray, before: np.ndarray, *, classes: int, side: int, seed: int
) -> list[Patch]:
    """The simple pattern that raises each class most, in class order: on a few images first, the best five on all.

    Args:
        net: in evaluation mode.
        x: float images in [0, 1]; labels: their classes; before: the net's answers to them.
        side: of the largest pattern; half of it is scanned too.
    """
    candidates = simple_candidates(side, x.shape[-1], x.shape[1], seed=seed)
    few = first_of_each_class(labels, SCAN_IMAGES)
    seen, own, answers = x[few], labels[few], before[few]
    scanned = np.stack(
        [class_rises(answers, fast_predictions(net, c.trigger.apply(seen)), own, classes) for c in candidates]
    )
    best = []
    for c in range(classes):
        judged = []
        for i in np.argsort(-scanned[:, c], kind="stable")[:FINALISTS]:
            after = fast_predictions(net, candidates[i].trigger.apply(x))
            judged.append((float(class_rises(before, after, labels, classes)[c]), -int(i)))
        reached, index = max(judged)
        chosen = candidates[-index]
        best.append(Patch(c, chosen.trigger, chosen.pattern, chosen.place, chosen.side, reached))
    return best


def simple_candidates(side: int, image_size: int, channels: int, *, seed: int) -> list[Patch]:
    """Every simple pattern at every place and side, not yet judged (class −1)."""
    return [
        Patch(-1, Trigger(quantise(pattern), *position(place, s, image_size)), name, place, s, float("-inf"))
        for s in sides(side)
        for name, pattern in simple_patterns(s, channels, seed=seed).items()
        for place in PLACES
    ]


def first_of_each_class(labels: np.ndarray, limit: int) -> np.ndarray:
    """About `limit` rows, the same number of every class, in the order they come."""
    present = np.unique(labels)
    each = max(1, limit // len(present))
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:each] for c in present]))
