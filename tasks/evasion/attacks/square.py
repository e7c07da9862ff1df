"""Square attack (Andriushchenko 2020): random squares at the budget's ends, kept where the margin grows. No gradients.

The attacker sees scores and nothing else, and pays by the query.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.evasion.attacks.budget import within
from tasks.evasion.attacks.losses import margin
from tasks.evasion.attacks.network import Attacked
from tasks.models.architectures import Classifier

HALVED_AT = (
    0.001,
    0.005,
    0.02,
    0.05,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
)  # shares of all queries (the paper's schedule of 10 000)


@dataclass(frozen=True)
class Queried:
    """Changed images, which of them the model answers wrongly, and how many answers each took."""

    images: Tensor
    fooled: Tensor  # bool (n,)
    queries: Tensor  # int64 (n,)


def square(
    model: Classifier, x: Tensor, labels: Tensor, *, eps: float, queries: int, seed: int, share: float = 0.8,
    bfloat16: bool = False, batch: int = 128,
) -> Queried:  # fmt: skip
    """L-infinity, untargeted, on the margin; images that are fooled ask no more.

    Args:
        x, labels: images in [0, 1], shape (n, channels, side, side), and true class indices (n,).
        eps: budget in pixel units of [0, 1].
        queries: at most so many answers an image.
        share: of the image's area that the first squares cover.
    """
    net, generator = Attacked(model, bfloat16=bfloat16), torch.Generator().manual_seed(seed)
    parts = [
        _batch(net, a, b, eps=eps, queries=queries, share=share, generator=generator)
        for a, b in zip(x.split(batch), labels.split(batch), strict=True)
        if len(a)
    ]
    if not parts:
        return Queried(x.clone(), torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    return Queried(*(torch.cat([getattr(p, name) for p in parts]) for name in ("images", "fooled", "queries")))


@torch.no_grad()
def _batch(
    net: Attacked, x: Tensor, labels: Tensor, *, eps: float, queries: int, share: float, generator: torch.Generator
) -> Queried:
    n, channels, side, _ = x.shape
    stripes = _signs((n, channels, 1, side), generator)
    best = within(x + eps * stripes, x, eps=eps)
    value = margin(net(best), labels)
    asked = torch.ones(n, dtype=torch.int64)
    place = torch.arange(side)
    for i in range(1, queries):
        left = (value <= 0).nonzero().squeeze(1)
        if not len(left):
            break
        width = max(1, round((share_at(share, i / queries) * side * side) ** 0.5))
        corner = torch.randint(0, side - width + 1, (len(left), 2), generator=generator)
        inside = (place >= corner[:, :, None]) & (place < corner[:, :, None] + width)  # (left, 2, side)
        mask = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
        colour = eps * _signs((len(left), channels, 1, 1), generator)
        tried = torch.where(mask, within(x[left] + colour, x[left], eps=eps), best[left])
        after = margin(net(tried), labels[left])
        better = after > value[left]
        rows = left[better]
        best[rows], value[rows] = tried[better], after[better]
        asked[left] += 1
    return Queried(best, value > 0, asked)


def share_at(first: float, progress: float) -> float:
    """Share of the image's area that squares cover after a share `progress` of all queries: halved again and again."""
    return first / 2.0 ** sum(progress > at for at in HALVED_AT)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
