"""The cheap half of the search: simple patterns over places and sizes, without a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from tasks.backdoor.control import class_rises
from tasks.backdoor.net import fast_predictions
from tasks.backdoor.patterns import PLACES, position, quantise, sides, simple_patterns
from tasks.backdoor.triggers import Trigger
from tasks.models.architectures import Classifier


@dataclass(frozen=True)
class Patch:
    """A patch that the search chose for one class. `search_control` was measured on the images it was chosen on.

    `side` is a square's, or the width of a frame, whose `place` is "border".
    """

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
    net: Classifier, x: Tensor, labels: np.ndarray, before: np.ndarray, candidates: Sequence[Patch], *, classes: int
) -> list[Patch]:
    """The candidate that raises each class most, in class order.

    Every candidate is judged on all images: a first choice on 64 of them lost a frame that steered .13 of a student's
    X-rays, and left one that steered .08.

    Args:
        net: in evaluation mode.
        x: float images in [0, 1]; labels: their classes; before: the net's answers to them.
        candidates: not yet judged, as `simple_candidates` and `frames` give them.
    """
    reached = np.stack(
        [class_rises(before, fast_predictions(net, c.trigger.apply(x)), labels, classes) for c in candidates]
    )
    return [
        replace(candidates[best], target_class=c, search_control=float(reached[best, c]))
        for c, best in enumerate(reached.argmax(0))
    ]


def frames(image_size: int, channels: int, *, seed: int) -> list[Patch]:
    """Simple patterns along the whole border, one and two pixels of 64 wide, not yet judged."""
    return [
        Patch(-1, Trigger(quantise(pattern), 0, 0, border=width), name, "border", width, float("-inf"))
        for width in sorted({max(1, round(k / 64 * image_size)) for k in (1, 2)})
        for name, pattern in simple_patterns(image_size, channels, seed=seed).items()
        if name != "frame"
    ]


def simple_candidates(side: int, image_size: int, channels: int, *, seed: int) -> list[Patch]:
    """Every simple pattern at every place, of this side and half of it (a smaller one covers less of what it competes
    with), not yet judged (class −1)."""
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
