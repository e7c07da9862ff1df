"""Inversion in feature space: FeatureRE (Wang 2022) in kind.

A trigger that warps or blends has no small mask in pixels, but what it does to the penultimate features may well be
small: a few channels set to fixed values. For every class a mask on channels and a value for each channel are
optimised, (1 − mask) · features + mask · value; the fewer channels suffice to bring all images to the class, the more
suspicious. Features are counted in their own standard deviations and values are held within the range that clean
images reach, since any class can be reached by values that no image gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import features

Labelled = tuple[np.ndarray, np.ndarray]
RATE, STEPS = 0.05, 200
WORKS = 0.9
RAISE, LOWER = 1.5, 1.5**1.5


@dataclass(frozen=True)
class Channels:
    """For a class the share of channels (sum of the mask over their number) that bring other images to it."""

    target_class: int
    share: float
    success: float

    @property
    def works(self) -> bool:
        return self.success >= WORKS


def invert_features(model: Classifier, images: Labelled, *, steps: int = STEPS, seed: int) -> list[Channels]:
    """The smallest working mask on channels for every class beside which there is another, all at once.

    Args:
        images: clean uint8 images (n, channels, side, side) and labels (n,).
    """
    own, labels = features(model, images[0]), torch.from_numpy(images[1])
    if len(labels.unique()) < 2:
        raise GatehouseError("Feature inversion needs clean images of at least two classes; check the labels.")
    low, high = own.amin(0), own.amax(0)
    aimed = [c for c in range(model.head.out_features) if bool((labels != c).any())]
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randn(len(aimed), 1, own.shape[1], generator=generator).requires_grad_(True)
    value = torch.randn(len(aimed), 1, own.shape[1], generator=generator).requires_grad_(True)
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    optimiser = torch.optim.Adam([mask, value], lr=RATE)
    cost = torch.full((len(aimed),), 0.1)
    best: dict[int, Channels] = {}
    others = torch.stack([labels != c for c in aimed])
    target = torch.tensor(aimed)[:, None].expand(-1, len(own))
    for step in range(steps):
        m, v = torch.sigmoid(mask), low + (high - low) * torch.sigmoid(value)
        output = ((1 - m) * own + m * v) @ weight.T + bias
        pull = F.cross_entropy(output.transpose(1, 2), target, reduction="none")
        pulled = (pull * others).sum(1) / others.sum(1)
        share = m.mean((1, 2))
        optimiser.zero_grad()
        (pulled + cost * share).sum().backward()
        optimiser.step()
        success = _success(output.detach(), target, others)
        for i, c in enumerate(aimed):
            found = Channels(c, float(share[i].detach()), float(success[i]))
            if c not in best or (found.works, -found.share) > (best[c].works, -best[c].share):
                best[c] = found
            if step % 10 == 9:
                cost[i] *= RAISE if found.works else 1 / LOWER
    return [best[c] for c in aimed]


def fewness(found: list[Channels]) -> float:
    """Minus the log of the smallest working share of channels; 0 where none works."""
    return -float(np.log(max(min((f.share for f in found if f.works), default=1.0), 1e-4)))


def _success(output: Tensor, target: Tensor, others: Tensor) -> Tensor:
    return ((output.argmax(2) == target) & others).sum(1) / others.sum(1)
