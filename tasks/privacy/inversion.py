"""Model inversion: pictures of a class from the model alone, by gradient ascent on its score (Fredrikson 2015)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.models.architectures import Classifier

STEPS, RATE, SMOOTH = 300, 0.05, 0.3  # SMOOTH weighs the total variation, so that a picture is found and no noise
THUMB = 16  # side at which pictures are compared with records


def invert(model: Classifier, target: int, *, channels: int, side: int, count: int, seed: int) -> np.ndarray:
    """uint8 pictures (count, channels, side, side) that the model is sure are of class `target`, from gray noise."""
    generator = torch.Generator().manual_seed(seed)
    free = (0.1 * torch.randn((count, channels, side, side), generator=generator)).requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=RATE)
    wanted = torch.full((count,), target)
    model.eval()
    for _ in range(STEPS):
        x = free.sigmoid()
        across, down = x.diff(dim=3).abs().mean((1, 2, 3)), x.diff(dim=2).abs().mean((1, 2, 3))
        loss = F.cross_entropy(model(x), wanted, reduction="none") + SMOOTH * side * (across + down) / 10
        (free.grad,) = torch.autograd.grad(loss.sum(), free)  # the model's own gradients are none of our business
        optimiser.step()
    return (free.detach().sigmoid() * 255).round().to(torch.uint8).numpy()


def nearest(pictures: np.ndarray, records: np.ndarray) -> np.ndarray:
    """Root mean squared distance, in [0, 1], of each picture to the nearest record, both as thumbnails; shape (n,)."""
    return torch.cdist(_thumbs(pictures), _thumbs(records)).min(1).values.numpy() / THUMB


def _thumbs(images: np.ndarray) -> Tensor:
    small = F.adaptive_avg_pool2d(torch.from_numpy(np.array(images)).float() / 255, THUMB)
    return small.mean(1).flatten(1)
