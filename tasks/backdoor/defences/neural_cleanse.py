"""Neural Cleanse (Wang 2019): the smallest mask and pattern that send every image to a class.

The study found no planted trigger with it (section 2.3, Experiment 3). It is here to measure that again; the gate's own
search is `tasks.backdoor.search`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.backdoor.net import fast_logits
from tasks.backdoor.triggers import Trigger
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy

BATCH = 64
WORKS = 0.99  # success around which the weight of the mask's size is raised or lowered
RAISE, LOWER = 1.5, 1.5**1.5


@dataclass(frozen=True)
class Recovered:
    """`mask` in [0, 1], shape (height, width); `pattern` in [0, 1], shape (channels, height, width).

    `success` is measured on the images given, those of the class itself left out; `size` is the mask's sum in pixels.
    """

    target_class: int
    mask: Tensor
    pattern: Tensor
    success: float
    size: float

    def apply(self, x: Tensor) -> Tensor:
        """Float images (n, channels, height, width) with the pattern laid over them through the mask."""
        return (1 - self.mask) * x + self.mask * self.pattern


def recover(
    model: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    target_class: int,
    epochs: int = 10,
    rate: float = 0.1,
    cost: float = 1e-3,
    seed: int,
) -> Recovered:
    """Adam on mask and pattern (both through tanh): cross-entropy to the class + cost · sum of the mask.

    After every pass over the images the cost rises by 1.5 where the trigger works and falls by 1.5^1.5 where it does
    not. The smallest mask of a pass that worked is kept; where none did, that of the last pass.

    Args:
        images: clean uint8 images (n, channels, side, side); those of `target_class` are left out.
        cost: first weight of the mask's sum in pixels.
    """
    others = labels != target_class
    if not others.any():
        raise GatehouseError(f"Neural Cleanse needs images of other classes than {target_class}; there are none.")
    net, x = frozen_copy(model), as_float(images[others])
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randn(x.shape[2:], generator=generator).requires_grad_(True)
    pattern = torch.randn(x.shape[1:], generator=generator).requires_grad_(True)
    optimiser = torch.optim.Adam([mask, pattern], lr=rate, betas=(0.5, 0.9))
    best: Recovered | None = None
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            m, p = _squash(mask), _squash(pattern)
            with torch.autocast("cpu", torch.bfloat16):
                output = net(((1 - m) * x[rows] + m * p).contiguous(memory_format=torch.channels_last)).float()
            loss = F.cross_entropy(output, torch.full((len(rows),), target_class)) + cost * m.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        now = _judged(net, x, _squash(mask.detach()), _squash(pattern.detach()), target_class)
        if best is None or best.success < WORKS or (now.success >= WORKS and now.size < best.size):
            best = now
        cost = cost * RAISE if now.success >= WORKS else cost / LOWER
    assert best is not None
    return best


def overlap(mask: Tensor, trigger: Trigger) -> dict[str, float]:
    """How a recovered mask lies on the planted square.

    `inside` is the share of the mask that lies within it, `iou` the intersection over union of the pixels where the
    mask is above one half with the square's.
    """
    _, height, width = trigger.pattern.shape
    square = torch.zeros_like(mask)
    square[trigger.top : trigger.top + height, trigger.left : trigger.left + width] = 1
    hard = (mask > 0.5).float()
    union = torch.maximum(hard, square).sum()
    inside = (mask * square).sum() / mask.sum().clamp(min=1e-9)
    return {"inside": float(inside), "iou": float((hard * square).sum() / union)}


def _squash(w: Tensor) -> Tensor:
    return (torch.tanh(w) + 1) / 2


def _judged(net: Classifier, x: Tensor, mask: Tensor, pattern: Tensor, target_class: int) -> Recovered:
    found = Recovered(target_class, mask, pattern, 0.0, float(mask.sum()))
    hits = fast_logits(net, found.apply(x)).argmax(1) == target_class
    return Recovered(target_class, mask, pattern, float(hits.float().mean()), found.size)
