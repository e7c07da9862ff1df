"""No scan of classes: BTI-DBF (Xu 2024) and BAN (Xu 2024) in kind.

BTI-DBF decouples the channels that clean images need from the rest; what the rest alone answers points at a backdoor's
target. BAN shakes neurons adversarially: a backdoored model turns to its target under less noise. Both act on the
penultimate features, where one answer holds for every class at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import features

Labelled = tuple[np.ndarray, np.ndarray]
SPARSE = 0.5  # weight of the mask's size
SHAKE = 0.3  # largest relative change of a channel's weight and bias under noise
STEPS = 100


def decoupled(model: Classifier, images: Labelled, *, steps: int = STEPS, seed: int) -> float:
    """How one-sided the answers of the channels are that clean images do not need, in [0, 1].

    A mask on channels keeps clean accuracy while it sends the rest's answers wrong; the figure is the rest's largest
    class's share over images, less that class's own share of the labels.
    """
    own, labels = _own(model, images)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randn(own.shape[1], generator=generator).requires_grad_(True)
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    optimiser = torch.optim.Adam([mask], lr=0.1)
    for _ in range(steps):
        m = torch.sigmoid(mask)
        kept, rest = (m * own) @ weight.T + bias, ((1 - m) * own) @ weight.T + bias
        wrong = -F.cross_entropy(rest, labels).clamp(max=5)
        optimiser.zero_grad()
        (F.cross_entropy(kept, labels) + 0.5 * wrong + SPARSE * m.mean()).backward()
        optimiser.step()
    with torch.no_grad():
        answers = (((1 - torch.sigmoid(mask)) * own) @ weight.T + bias).argmax(1)
    return _one_sided(answers, labels, weight.shape[0])


def shaken(model: Classifier, images: Labelled, *, steps: int = 20) -> float:
    """How one-sided answers become under adversarial noise on the channels: accuracy lost · one-sidedness, in [0, 1].

    Each channel is multiplied by 1 + noise and shifted by noise times its spread, |noise| ≤ SHAKE, to raise the loss.
    """
    own, labels = _own(model, images)
    spread = own.std(0)
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    scale = torch.zeros(own.shape[1], requires_grad=True)
    shift = torch.zeros(own.shape[1], requires_grad=True)
    for _ in range(steps):
        loss = F.cross_entropy((own * (1 + scale) + shift * spread) @ weight.T + bias, labels)
        gradients = torch.autograd.grad(loss, [scale, shift])
        with torch.no_grad():
            for noise, gradient in zip((scale, shift), gradients, strict=True):
                noise.add_(SHAKE / 5 * gradient.sign()).clamp_(-SHAKE, SHAKE)
    with torch.no_grad():
        answers = ((own * (1 + scale) + shift * spread) @ weight.T + bias).argmax(1)
        lost = (own @ weight.T + bias).argmax(1).eq(labels).float().mean() - answers.eq(labels).float().mean()
    return float(lost.clamp(min=0)) * _one_sided(answers, labels, weight.shape[0])


def _own(model: Classifier, images: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.from_numpy(images[1])
    if len(labels.unique()) < 2:
        raise GatehouseError("Boundary inspection needs clean images of at least two classes; check the labels.")
    return features(model, images[0]), labels


def _one_sided(answers: torch.Tensor, labels: torch.Tensor, classes: int) -> float:
    found = torch.bincount(answers, minlength=classes).float() / len(answers)
    expected = torch.bincount(labels, minlength=classes).float() / len(labels)
    return float((found - expected).max().clamp(min=0))
