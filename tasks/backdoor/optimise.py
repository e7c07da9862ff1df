"""Many patches optimised at once: every class and place in one batch, against a model whose weights stand still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.models.architectures import Classifier

IMAGES_PER_STEP = 8  # images each patch is pasted on in one step
MARGIN = 1.0  # an image counts as won once the class leads by this many logits
KEEP = 1 / 3  # share of each class's patches that goes on after the first third of the steps


@dataclass(frozen=True)
class Start:
    """Where a patch begins: the class it is to raise, its place, and its first pattern (channels, side, side)."""

    target_class: int
    place: str
    top: int
    left: int
    pattern: Tensor


def optimise_patches(
    net: Classifier, x: Tensor, labels: np.ndarray, starts: Sequence[Start], *, classes: int, steps: int, seed: int
) -> list[Tensor]:
    """Patterns in [0, 1], one for each start, that win images of other classes for the start's class.

    Sign-gradient steps on the mean of max(0, MARGIN − (logit of the class − best other logit)): an image that is won
    already pulls no more. Step size falls from .25 by a cosine. After a third of the steps only the best third of each
    class's patches (at least two) goes on; the others are returned as they then are.

    Args:
        net: in evaluation mode, weights without gradients.
        x: float images in [0, 1], shape (n, channels, size, size); labels: their classes, shape (n,).
    """
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.stack([s.pattern for s in starts]).clone()
    pools = [torch.from_numpy(np.flatnonzero(labels != c)) for c in range(classes)]
    alive = [i for i, s in enumerate(starts) if len(pools[s.target_class])]
    cut = max(1, steps // 3)
    losses = torch.zeros(len(starts))
    for step in range(steps):
        if step == cut:
            alive = _best_of_each_class(starts, alive, losses)
        rate = 0.25 * 0.5 * (1 + np.cos(np.pi * step / steps))
        drawn = [
            pool[torch.randint(len(pool), (IMAGES_PER_STEP,), generator=generator)] if len(pool) else pool
            for pool in pools
        ]
        for group in _groups(alive):
            gradient, loss = _gradient(net, x, [starts[i] for i in group], patterns[group], drawn)
            patterns[group] = (patterns[group] - rate * gradient.sign()).clamp(0, 1)
            losses[group] = 0.7 * losses[group] + 0.3 * loss
    return list(patterns)


def _gradient(
    net: Classifier, x: Tensor, starts: list[Start], patterns: Tensor, drawn: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradient of each pattern, shape (patches, channels, side, side), and each one's loss, shape (patches,)."""
    patterns = patterns.clone().requires_grad_(True)
    pieces = []
    for start, pattern in zip(starts, patterns, strict=True):
        piece = x[drawn[start.target_class]]
        _, height, width = pattern.shape
        piece[:, :, start.top : start.top + height, start.left : start.left + width] = pattern
        pieces.append(piece)
    batch = torch.cat(pieces).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(batch).float()
    target = torch.tensor([s.target_class for s in starts]).repeat_interleave(IMAGES_PER_STEP)[:, None]
    own = output.gather(1, target)[:, 0]
    other = output.scatter(1, target, float("-inf")).amax(1)
    loss = (MARGIN - (own - other)).clamp(min=0).view(len(starts), -1).mean(1)
    (gradient,) = torch.autograd.grad(loss.sum(), patterns)
    return gradient, loss.detach()


def _best_of_each_class(starts: Sequence[Start], alive: list[int], losses: Tensor) -> list[int]:
    kept = []
    for c in sorted({starts[i].target_class for i in alive}):
        own = sorted((i for i in alive if starts[i].target_class == c), key=lambda i: (float(losses[i]), i))
        kept += own[: max(2, round(KEEP * len(own)))]
    return sorted(kept)


def _groups(rows: list[int], size: int = 16) -> list[list[int]]:
    """Batches of patches small enough (128 images) to stay in the processor's cache."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]
