"""The gate's own search for a small patch that steers a model: simple patterns, then optimised ones.

Patches are chosen on one set of images and their control is measured on another, so that the figure reported is not
inflated by the choice. Nothing of an attacker is needed: no trigger, no target class, no poisoned image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.backdoor.control import Control, class_controls, class_rises
from tasks.backdoor.net import fast_predictions
from tasks.backdoor.optimise import Optimised, Start, optimise_patches
from tasks.backdoor.patterns import PLACES, position, quantise
from tasks.backdoor.scan import Patch, first_of_each_class, frames, scan, simple_candidates
from tasks.backdoor.triggers import Trigger, pixels
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy, logits

GRID_IMAGES = 64

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 images (n, channels, side, side), int64 labels (n,)


@dataclass(frozen=True)
class Found:
    """What the search found; both controls are held-out, one patch a class, worst class first named in `worst_class`.

    `grid` holds for every place and class the control that optimising reached there, on a few search images: a map of
    where the model is weak, rougher than the two controls.
    """

    simple: Control
    simple_patches: tuple[Patch, ...]
    patch: Control
    patches: tuple[Patch, ...]
    grid: dict[str, tuple[float, ...]]
    side: int
    search_images: int
    held_out_images: int
    unseen: np.ndarray  # the model's answers to the held-out images without any patch, shape (held_out_images,)

    def worst_patch(self) -> Patch:
        return self.patches[self.patch.worst_class]

    def worst_simple(self) -> Patch:
        return self.simple_patches[self.simple.worst_class]

    def as_json(self) -> dict[str, Any]:
        return {
            "side": self.side,
            "search_images": self.search_images,
            "held_out_images": self.held_out_images,
            "simple": self.simple.as_json() | {"patches": [p.as_json() for p in self.simple_patches]},
            "patch": self.patch.as_json() | {"patches": [p.as_json() for p in self.patches]},
            "grid": {place: [round(v, 6) for v in row] for place, row in self.grid.items()},
        }


def search(
    model: Classifier,
    search_set: Labelled,
    held_out: Labelled,
    *,
    patch_fraction: float,
    search_steps: int,
    restarts: int,
    seed: int,
    simple_confidence: float = 0.95,
) -> Found:
    """Search on `search_set`, measure on `held_out`.

    1. Scan: every simple pattern at every place of the grid, at the largest side and half of it, and along the border.
    2. Optimise: patches of the largest side for every class and place at once, each from several noise patterns; the
       best third of each class's goes on, and of those again the best third.
    3. For every class take the best square on the search set, simple or optimised, and measure it on the held-out set;
       and so the best simple pattern, square or frame.

    Args:
        patch_fraction: side of the largest patch as a fraction of the image's side.
        search_steps: sign-gradient steps of the patches that go on to the end.
        restarts: noise patterns that the patch for each class and place starts from.
        simple_confidence: of the interval of the simple patterns' control, where it is one figure of several.

    Raises:
        GatehouseError: one of the sets holds fewer than two classes.
    """
    for name, part in (("search", search_set), ("held-out", held_out)):
        if len(np.unique(part[1])) < 2:
            raise GatehouseError(f"The patch search needs {name} images of at least two classes; check the splits.")
    net = frozen_copy(model)
    x, labels = as_float(search_set[0]), search_set[1]
    side, classes = pixels(patch_fraction, x.shape[-1]), model.head.out_features
    before = fast_predictions(net, x)
    squares, along = (
        scan(net, x, labels, before, candidates, classes=classes)
        for candidates in (
            simple_candidates(side, x.shape[-1], x.shape[1], seed=seed),
            frames(x.shape[-1], x.shape[1], seed=seed),
        )
    )
    simple = [max(pair, key=lambda p: p.search_control) for pair in zip(squares, along, strict=True)]

    starts = _starts(side, x, classes, restarts=restarts, seed=seed)
    optimised = optimise_patches(net, x, labels, starts, classes=classes, steps=search_steps, seed=seed)
    best = list(squares)
    for i in optimised.finished:
        start, trigger = starts[i], _trigger(starts[i], optimised.patterns[i])
        reached = float(
            class_rises(before, fast_predictions(net, trigger.apply(x)), labels, classes)[start.target_class]
        )
        if reached > best[start.target_class].search_control:
            best[start.target_class] = Patch(start.target_class, trigger, "optimised", start.place, side, reached)
    unseen = logits(model, held_out[0]).argmax(1).numpy()
    by_simple = [_predicted_with(model, p, held_out[0]) for p in simple]
    by_best = [
        by_simple[c] if patch is simple[c] else _predicted_with(model, patch, held_out[0])
        for c, patch in enumerate(best)
    ]
    return Found(
        simple=class_controls(unseen, by_simple, held_out[1], confidence=simple_confidence),
        simple_patches=tuple(simple),
        patch=class_controls(unseen, by_best, held_out[1]),
        patches=tuple(best),
        grid=_grid(net, x, labels, before, starts, optimised, classes),
        side=side,
        search_images=len(labels),
        held_out_images=len(held_out[1]),
        unseen=unseen,
    )


def _starts(side: int, x: Tensor, classes: int, *, restarts: int, seed: int) -> list[Start]:
    """Noise at every place, for every class, `restarts` times."""
    generator = torch.Generator().manual_seed(seed + 1)
    return [
        Start(c, place, *position(place, side, x.shape[-1]), torch.rand(x.shape[1], side, side, generator=generator))
        for place in PLACES
        for c in range(classes)
        for _ in range(restarts)
    ]


def _grid(
    net: Classifier,
    x: Tensor,
    labels: np.ndarray,
    before: np.ndarray,
    starts: list[Start],
    optimised: Optimised,
    classes: int,
) -> dict[str, tuple[float, ...]]:
    """For every place and class the control, on a few search images, of the start there that came furthest."""
    few = first_of_each_class(labels, GRID_IMAGES)
    rows = {}
    for place in PLACES:
        row = []
        for c in range(classes):
            own = [i for i, s in enumerate(starts) if (s.place, s.target_class) == (place, c)]
            best = min(own, key=lambda i: (float(optimised.losses[i]), i))
            after = fast_predictions(net, _trigger(starts[best], optimised.patterns[best]).apply(x[few]))
            row.append(float(class_rises(before[few], after, labels[few], classes)[c]))
        rows[place] = tuple(row)
    return rows


def _trigger(start: Start, pattern: Tensor) -> Trigger:
    return Trigger(quantise(pattern), start.top, start.left)


def _predicted_with(model: Classifier, patch: Patch, images: np.ndarray) -> np.ndarray:
    """Predicted classes of uint8 images with the patch on, in full precision."""
    return logits(model, patch.trigger.apply_uint8(images)).argmax(1).numpy()
