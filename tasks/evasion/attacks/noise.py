"""Random noise: the attack that knows nothing, and the yardstick of those that know something."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.evasion.attacks.budget import within


def random_noise(x: Tensor, *, eps: float, seed: int) -> Tensor:
    """Images with every pixel moved by ±eps, the sign drawn at random: the largest change that the budget allows.

    Args:
        x: images in [0, 1], shape (n, channels, side, side).
        eps: L-infinity budget in pixel units of [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x.dtype) * 2 - 1
    return within(x + eps * signs, x, eps=eps)
