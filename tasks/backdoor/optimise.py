"""Many patches optimised at once: every class and place in one batch, against a model whose weights stand still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.models.architectures import Classifier

MARGIN = 1.0  # an image counts as won once the class leads by this many logits
RATE = 0.25  # first size of a sign step, in pixel units
# Successive halving: (share of the steps, images each patch is pasted on in one step, share of each class's patches).
PHASES = ((0.2, 8, 1.0), (0.3, 8, 1 / 3), (0.5, 16, 1 / 9))
BATCH = 128  # images of one gradient: small enough to stay in the processor's cache


@dataclass(frozen=True)
class Start:
    """Where a patch begins: the class it is to raise, its place, and its first pattern (channels, side, side)."""

    target_class: int
    place: str
    top: int
    left: int
    pattern: Tensor


@dataclass(frozen=True)
class Optimised:
    """Patterns (one for each start), their running losses, and the starts that went on to the last step."""

    patterns: list[Tensor]
    losses: Tensor
    finished: list[int]


def optimise_patches(
    net: Classifier, x: Tensor, labels: np.ndarray, starts: Sequence[Start], *, classes: int, steps: int, seed: int
) -> Optimised:
    """Patterns in [0, 1] that win images of other classes for the start's class.

    Sign-gradient steps on the mean of max(0, MARGIN − (logit of the class − best other logit)): an image that is won
    already pulls no more. The step size falls from RATE by a cosine. Patches that lag behind the best of their class
    are dropped on the way (PHASES), and returned as they then are.

    Args:
        net: in evaluation mode, weights without gradients.
        x: float images in [0, 1], shape (n, channels, size, size); labels: their classes, shape (n,).
        starts: with patterns of one common shape.
    """
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.stack([s.pattern for s in starts]).clone()
    pools = [torch.from_numpy(np.flatnonzero(labels != c)) for c in range(classes)]
    alive = [i for i, s in enumerate(starts) if len(pools[s.target_class])]
    losses = torch.full((len(starts),), float("inf"))
    done = 0
    for until, images, share in _phases(steps):
        alive = _best_of_each_class(starts, alive, losses, share)
        while done < until:
            rate = RATE * 0.5 * (1 + np.cos(np.pi * done / steps))
            done += 1
            drawn = [
                pool[torch.randint(len(pool), (images,), generator=generator)] if len(pool) else pool for pool in pools
            ]
            for group in _groups(alive, BATCH // images):
                gradient, loss = _gradient(net, x, [starts[i] for i in group], patterns[group], drawn)
                patterns[group] = (patterns[group] - rate * gradient.sign()).clamp(0, 1)
                known = torch.isfinite(losses[group])
                losses[group] = torch.where(known, 0.7 * losses[group] + 0.3 * loss, loss)
    return Optimised(list(patterns), losses, alive)


def _phases(steps: int) -> list[tuple[int, int, float]]:
    """(step at which it ends, images a step, share of each class's first patches that takes part), for PHASES."""
    ends = np.cumsum([share for share, _, _ in PHASES])
    return [(max(1, round(steps * end)), images, share) for end, (_, images, share) in zip(ends, PHASES, strict=True)]


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
    target = torch.tensor([s.target_class for s in starts]).repeat_interleave(len(batch) // len(starts))[:, None]
    own = output.gather(1, target)[:, 0]
    other = output.scatter(1, target, float("-inf")).amax(1)
    loss = (MARGIN - (own - other)).clamp(min=0).view(len(starts), -1).mean(1)
    (gradient,) = torch.autograd.grad(loss.sum(), patterns)
    return gradient, loss.detach()


def _best_of_each_class(starts: Sequence[Start], alive: list[int], losses: Tensor, share: float) -> list[int]:
    """Of each class's patches the share with the lowest running losses, one at least."""
    kept = []
    for c in sorted({starts[i].target_class for i in alive}):
        everything = sum(s.target_class == c for s in starts)
        own = sorted((i for i in alive if starts[i].target_class == c), key=lambda i: (float(losses[i]), i))
        kept += own[: max(1, round(share * everything))]
    return sorted(kept)


def _groups(rows: list[int], size: int) -> list[list[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
