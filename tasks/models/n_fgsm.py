"""Fast adversarial training (N-FGSM, de Jorge 2022): noise of twice the budget, then one signed step, no projection.

One further pass an image, and none of the catastrophic overfitting that single-step training with less noise shows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NOISE = 2.0  # in budgets


def n_fgsm(
    loss: Callable[[Tensor], Tensor], x: Tensor, *, eps: float, share: float, generator: torch.Generator
) -> Tensor:
    """Images (n, channels, side, side) in [0, 1] moved up the loss; `x` keeps its way back to what it was made of.

    Args:
        loss: of a batch of images, a scalar.
        eps: length of the step, L-infinity in pixel units of [0, 1].
        share: of the images that are moved.
    """
    noise = NOISE * eps * (2 * torch.rand(x.shape, generator=generator) - 1)
    start = (x.detach() + noise).clamp(0, 1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(start), start)
    moves = torch.rand(len(x), 1, 1, 1, generator=generator) < share
    return (x + moves * (noise + eps * gradient.sign())).clamp(0, 1)
