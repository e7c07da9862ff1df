"""The gate's own search for a small patch that steers a model: simple patterns, then optimised ones.

Patches are chosen on one set of images and their control is measured on another, so that the figure reported is not
inflated by the choice. Nothing of an attacker is needed: no trigger, no target class, no poisoned image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.backdoor.control import Control, class_controls, class_rises
from tasks.backdoor.net import fast_predictions
from tasks.backdoor.optimise import Start, optimise_patches
from tasks.backdoor.patterns import PLACES, position, quantise, sides, simple_patterns
from tasks.backdoor.triggers import Trigger, pixels
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy, logits

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 images (n, channels, side, side), int64 labels (n,)
SCAN_IMAGES = 64
Progress = Callable[[int, int, str], None]


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


@dataclass(frozen=True)
class Found:
    """What the search found; both controls are held-out, one patch a class, worst class first named in `worst_class`.

    `grid` holds for every place and class the control that an optimised patch reached on the search images.
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
    progress: Progress | None = None,
) -> Found:
    """Search on `search_set`, measure on `held_out`.

    1. Scan: every simple pattern at every place of the grid, at the largest side and half of it.
    2. Optimise: a patch of the largest side for every class and place at once, from the best simple pattern there
       (and, with `restarts` over 1, from noise), then go on with the best places only.
    3. For every class take the best patch on the search set, and measure it on the held-out set.

    Args:
        patch_fraction: side of the largest patch as a fraction of the image's side.
        search_steps: sign-gradient steps of every optimised patch.
        restarts: starting patterns of each optimised patch.
        simple_confidence: of the interval of the simple patterns' control, where it is one figure of several.

    Raises:
        GatehouseError: one of the sets holds fewer than two classes.
    """
    for name, part in (("search", search_set), ("held-out", held_out)):
        if len(np.unique(part[1])) < 2:
            raise GatehouseError(f"The patch search needs {name} images of at least two classes; check the splits.")
    net = frozen_copy(model)
    size, side = search_set[0].shape[-1], pixels(patch_fraction, search_set[0].shape[-1])
    classes = model.head.out_features
    x, labels = as_float(search_set[0]), search_set[1]
    before = fast_predictions(net, x)

    candidates = simple_candidates(side, size, search_set[0].shape[1], seed=seed)
    few = _first_of_each_class(labels, SCAN_IMAGES)
    scanned = np.stack(
        [
            class_rises(before[few], fast_predictions(net, c.trigger.apply(x[few])), labels[few], classes)
            for c in candidates
        ]
    )
    if progress:
        progress(1, 3, f"{len(candidates)} simple patterns scanned")
    simple = _best_simple(net, candidates, scanned, x, labels, before, classes)

    starts = _starts(candidates, scanned, side, size, classes, restarts=restarts, seed=seed)
    optimised = optimise_patches(net, x, labels, starts, classes=classes, steps=search_steps, seed=seed)
    if progress:
        progress(2, 3, f"{len(starts)} patches optimised")
    grid = {place: [float("-inf")] * classes for place in PLACES}
    best: list[Patch] = list(simple)
    for start, pattern in zip(starts, optimised, strict=True):
        trigger = Trigger(quantise(pattern), start.top, start.left)
        c = start.target_class
        reached = float(class_rises(before, fast_predictions(net, trigger.apply(x)), labels, classes)[c])
        grid[start.place][c] = max(grid[start.place][c], reached)
        if reached > best[c].search_control:
            best[c] = Patch(c, trigger, "optimised", start.place, side, reached)
    unseen = logits(model, held_out[0]).argmax(1).numpy()
    by_simple = [_predicted_with(model, p, held_out[0]) for p in simple]
    by_best = [
        by_simple[c] if patch is simple[c] else _predicted_with(model, patch, held_out[0])
        for c, patch in enumerate(best)
    ]
    simple_control = class_controls(unseen, by_simple, held_out[1], confidence=simple_confidence)
    control = class_controls(unseen, by_best, held_out[1])
    if progress:
        progress(3, 3, "control measured on held-out images")
    return Found(
        simple_control, tuple(simple), control, tuple(best), {k: tuple(v) for k, v in grid.items()}, side,
        len(labels), len(held_out[1]), unseen,
    )  # fmt: skip


def _predicted_with(model: Classifier, patch: Patch, images: np.ndarray) -> np.ndarray:
    """Predicted classes of uint8 images with the patch on, in full precision."""
    return logits(model, patch.trigger.apply_uint8(images)).argmax(1).numpy()


def simple_candidates(side: int, image_size: int, channels: int, *, seed: int) -> list[Patch]:
    """Every simple pattern at every place and side, not yet judged (class −1)."""
    return [
        Patch(-1, Trigger(quantise(pattern), *position(place, s, image_size)), name, place, s, float("-inf"))
        for s in sides(side)
        for name, pattern in simple_patterns(s, channels, seed=seed).items()
        for place in PLACES
    ]


def _best_simple(
    net: Classifier,
    candidates: list[Patch],
    scanned: np.ndarray,
    x: Tensor,
    labels: np.ndarray,
    before: np.ndarray,
    classes: int,
) -> list[Patch]:
    """The best simple pattern for every class: the scan's best five, measured again on all search images."""
    best = []
    for c in range(classes):
        judged = []
        for i in np.argsort(-scanned[:, c], kind="stable")[:5]:
            after = fast_predictions(net, candidates[i].trigger.apply(x))
            judged.append((float(class_rises(before, after, labels, classes)[c]), -int(i)))
        reached, index = max(judged)
        chosen = candidates[-index]
        best.append(Patch(c, chosen.trigger, chosen.pattern, chosen.place, chosen.side, reached))
    return best


def _starts(
    candidates: list[Patch],
    scanned: np.ndarray,
    side: int,
    image_size: int,
    classes: int,
    *,
    restarts: int,
    seed: int,
) -> list[Start]:
    """For every class and place: the scan's best pattern of full side there, then noise for each further restart."""
    generator = torch.Generator().manual_seed(seed + 1)
    starts = []
    for place in PLACES:
        top, left = position(place, side, image_size)
        here = [i for i, p in enumerate(candidates) if p.place == place and p.side == side]
        for c in range(classes):
            first = candidates[max(here, key=lambda i: (scanned[i, c], -i))].trigger.pattern
            starts.append(Start(c, place, top, left, first))
            for _ in range(restarts - 1):
                starts.append(Start(c, place, top, left, torch.rand(first.shape, generator=generator)))
    return starts


def _first_of_each_class(labels: np.ndarray, limit: int) -> np.ndarray:
    """About `limit` rows, the same number of every class, in the order they come."""
    present = np.unique(labels)
    each = max(1, limit // len(present))
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:each] for c in present]))
