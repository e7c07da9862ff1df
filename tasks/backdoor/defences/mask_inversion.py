"""Trigger inversion as mask and pattern, all classes at once: Neural Cleanse (Wang 2019) where it can be trusted.

Every class has a mask and a pattern of its own, and one batch holds the images of all of them, so that a scan costs
little more than a single class. A mask counts only if it works: its success is measured on images of other classes,
beside how often they are given the class anyway. Two kinds: `patch`, which may cover pixels wholly, and `blend`, whose
mask is one opacity for the whole image. The size of the smallest mask means something beside reference models alone:
median deviations over two classes mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.backdoor.net import fast_logits, spread
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy

Labelled = tuple[np.ndarray, np.ndarray]
Kind = Literal["patch", "blend"]
RATE = 0.1
WORKS = 0.9  # success from which a mask counts, and around which the cost of its size moves
RAISE, LOWER = 1.5, 1.5**1.5
FIRST_COST = 1e-3
CHECKED = 12  # steps between two looks at the success
PER_STEP, JUDGED = 12, 64  # images of each class in a step, and for the success


@dataclass(frozen=True)
class Mask:
    """The smallest trigger found for a class: x becomes (1 − mask) · x + mask · pattern.

    `mask` (side, side) and `pattern` (channels, side, side) lie in [0, 1]; `size` is the mask's sum. `success` is the
    share of images of other classes given the class with it, `clean` that share without. Where none worked (`works`
    false), the one of the highest success is shown, and it is no finding.
    """

    target_class: int
    kind: Kind
    mask: Tensor
    pattern: Tensor
    size: float
    success: float
    clean: float

    @property
    def works(self) -> bool:
        return self.success >= WORKS

    def apply(self, x: Tensor) -> Tensor:
        return (1 - self.mask) * x + self.mask * self.pattern


def invert_masks(
    model: Classifier, images: Labelled, *, kind: Kind = "patch", steps: int = 60, seed: int
) -> list[Mask]:
    """One mask for every class beside which `images` hold another, in the order of the classes.

    Adam (0.1) on mask and pattern through sigmoids; cross-entropy to the class + cost · size. Every few steps the
    class's cost rises by 1.5 where its trigger works and falls by 1.5^1.5 where it does not, and the smallest trigger
    that worked is kept.

    Args:
        images: clean uint8 images (n, channels, side, side) and labels (n,).
    """
    net, labels, classes = frozen_copy(model), images[1], model.head.out_features
    rows = {c: np.flatnonzero(labels != c) for c in range(classes)}
    aimed = [c for c in range(classes) if len(rows[c])]
    if not len(labels) or len(np.unique(labels)) < 2:
        raise GatehouseError("Trigger inversion needs clean images of at least two classes; check the labels.")
    x = as_float(images[0])
    generator = torch.Generator().manual_seed(seed)
    _, channels, height, width = x.shape
    shape = (len(aimed), 1, height, width) if kind == "patch" else (len(aimed), 1, 1, 1)
    mask = (torch.randn(shape, generator=generator) - 2).requires_grad_(True)
    pattern = torch.randn(len(aimed), channels, height, width, generator=generator).requires_grad_(True)
    optimiser = torch.optim.Adam([mask, pattern], lr=RATE, betas=(0.5, 0.9))
    cost = torch.full((len(aimed),), FIRST_COST)
    target = torch.tensor(aimed).repeat_interleave(PER_STEP)
    judged = {c: x[torch.from_numpy(rows[c][spread(len(rows[c]), JUDGED)])] for c in aimed}
    clean = {c: _share(net, judged[c], c) for c in aimed}
    best: dict[int, Mask] = {}
    for step in range(1, steps + 1):
        drawn = [
            x[torch.from_numpy(rows[c])[torch.randint(len(rows[c]), (PER_STEP,), generator=generator)]] for c in aimed
        ]
        m, p = torch.sigmoid(mask)[:, None], torch.sigmoid(pattern)[:, None]
        batch = ((1 - m) * torch.stack(drawn) + m * p).flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            output = net(batch.contiguous(memory_format=torch.channels_last)).float()
        pull = F.cross_entropy(output, target, reduction="none").view(len(aimed), -1).mean(1)
        size = m.expand(-1, 1, 1, height, width).sum((1, 2, 3, 4))
        loss = (pull + cost * size).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % CHECKED == 0 or step == steps:
            for i, c in enumerate(aimed):
                found = _found(net, judged[c], mask[i], pattern[i], c, kind, clean[c])
                if c not in best or _better(found, best[c]):
                    best[c] = found
                cost[i] *= RAISE if found.works else 1 / LOWER
    return [best[c] for c in aimed]


def smallness(found: Sequence[Mask]) -> float:
    """Minus the log of the smallest mask that works, in pixels: higher is more suspicious.

    Where none works, the value of a mask as large as the image.
    """
    sizes = [m.size for m in found if m.works]
    return -float(np.log(max(min(sizes, default=float(found[0].mask.numel())), 1e-3)))


def _better(new: Mask, old: Mask) -> bool:
    if new.works != old.works:
        return new.works
    return new.size < old.size if new.works else new.success > old.success


def _found(net: Classifier, x: Tensor, mask: Tensor, pattern: Tensor, c: int, kind: Kind, clean: float) -> Mask:
    m = torch.sigmoid(mask.detach())[0].expand(x.shape[2:]).clone()
    found = Mask(c, kind, m, torch.sigmoid(pattern.detach()).clone(), float(m.sum()), 0.0, clean)
    success = _share(net, found.apply(x), c)
    return Mask(c, kind, found.mask, found.pattern, found.size, success, clean)


def _share(net: Classifier, x: Tensor, c: int) -> float:
    return float((fast_logits(net, x).argmax(1) == c).float().mean())
