"""Fast adversarial training (N-FGSM, de Jorge 2022): noise of twice the budget, then one signed step, no projection.

One further pass an image, and none of the catastrophic overfitting that single-step training with less noise shows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NOISE = 2.0  # in budgets
FEWEST = 2  # images that can be moved: the statistics of a batch need two


def n_fgsm(
    loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, *, eps: float, share: float, generator: torch.Generator
) -> Tensor:
    """Images (n, channels, side, side) in [0, 1] moved up the loss; `x` keeps its way back to what it was made of.

    Args:
        loss: of some of the images and their rows in the batch, a scalar.
        eps: length of the step, L-infinity in pixel units of [0, 1].
        share: of the images that are moved.
    """
    rows = (torch.rand(len(x), generator=generator) < share).nonzero().squeeze(1)
    if len(rows) < FEWEST:
        return x
    noise = NOISE * eps * (2 * torch.rand(x[rows].shape, generator=generator) - 1)
    start = (x[rows].detach() + noise).clamp(0, 1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(start, rows), start)
    return x.index_add(0, rows, noise + eps * gradient.sign()).clamp(0, 1)
