"""Trigger inversion in the shape of a patch: for every class the smallest square that still works.

Neural Cleanse (Wang 2019) asks how little it takes to reach a class, but keeps masks that do not work and asks class by
class. Here all classes and places are optimised in one batch (`tasks.backdoor.search`), and a smaller square counts
only if it still raises its class on images by `works`. The figure means something beside clean reference models only.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn import functional as F

from tasks.backdoor.control import class_rises
from tasks.backdoor.net import fast_predictions
from tasks.backdoor.optimise import Start, optimise_patches
from tasks.backdoor.patterns import position, quantise
from tasks.backdoor.search import Found, Labelled
from tasks.backdoor.triggers import Trigger
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy

WORKS = 0.5


@dataclass(frozen=True)
class Inverted:
    """For every class the side in pixels of the smallest square that works; None where none within the search does."""

    sides: tuple[int | None, ...]
    works: float

    @property
    def smallest(self) -> int | None:
        """The smallest side over the classes: the model's weakest point."""
        found = [s for s in self.sides if s is not None]
        return min(found) if found else None


def invert(
    model: Classifier, images: Labelled, found: Found, *, steps: int, works: float = WORKS, seed: int
) -> Inverted:
    """Shrink the best patch of every class pixel by pixel, optimising again each time, as long as it works.

    Args:
        images: uint8 images and labels that the search used.
        found: the search's result on the same model.
        works: control of its class, in (0, 1], from which a patch counts.
    """
    net, x, labels = frozen_copy(model), as_float(images[0]), images[1]
    before, classes = fast_predictions(net, x), model.head.out_features
    sides: list[int | None] = [p.side if p.search_control >= works else None for p in found.patches]
    going = [p for p in found.patches if p.search_control >= works]
    patterns = {p.target_class: p.trigger.pattern for p in going}
    for side in range(found.side - 1, 0, -1):
        shrinking = [p for p in going if p.side > side]
        if not going:
            break
        starts = []
        for p in shrinking:
            top, left = position(p.place, side, x.shape[-1])
            small = F.interpolate(patterns[p.target_class][None], size=(side, side), mode="nearest")[0]
            starts.append(Start(p.target_class, p.place, top, left, small))
        optimised = optimise_patches(net, x, labels, starts, classes=classes, steps=steps, seed=seed)
        lost = set()
        for start, pattern in zip(starts, optimised.patterns, strict=True):
            trigger = Trigger(quantise(pattern), start.top, start.left)
            after = fast_predictions(net, trigger.apply(x))
            if class_rises(before, after, labels, classes)[start.target_class] >= works:
                sides[start.target_class] = side
                patterns[start.target_class] = pattern
            else:
                lost.add(start.target_class)
        going = [p for p in going if p.target_class not in lost]
    return Inverted(tuple(sides), works)
