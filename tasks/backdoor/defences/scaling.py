"""Scaling consistency (IBD-PSC, Hou 2024): answers to triggered inputs outlast an amplification of the network.

The scale and shift of the last k normalisation layers are multiplied by ω > 1. Clean inputs soon get another answer;
triggered ones, whose answer hangs on a few strong features, tend to keep theirs. Where to start and how far to amplify
depends on the network, so both are calibrated for each model: the amplification is raised until the clean accuracy
has fallen to a wanted level.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tasks.backdoor.net import fast_logits
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy

OMEGAS = (1.25, 1.5, 2.0, 3.0)
WANTED = 0.5  # share of clean images that keep their answer under the strongest amplification
MODELS = 4  # amplified models that an input is asked of: the last k, k − 1, … normalisation layers


@dataclass(frozen=True)
class Scale:
    """`layers` normalisation layers, counted from the head, amplified by `omega`; `kept` clean images keep theirs."""

    layers: int
    omega: float
    kept: float


def amplified(model: Classifier, layers: int, omega: float) -> Classifier:
    """A copy of which the last `layers` normalisation layers have scale and shift multiplied by `omega`."""
    net = copy.deepcopy(model).eval()
    found = [m for m in net.blocks.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.GroupNorm)]
    with torch.no_grad():
        for layer in found[max(0, len(found) - layers) :]:
            layer.weight.mul_(omega)
            layer.bias.mul_(omega)
    return net


def normalisations(model: Classifier) -> int:
    """How many normalisation layers with scale and shift the features have."""
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm | nn.GroupNorm) for m in model.blocks.modules())


def calibrate_scale(model: Classifier, clean: np.ndarray, *, wanted: float = WANTED) -> Scale:
    """The mildest amplification under which at most `wanted` of the clean images keep their answer.

    Weaker ω come first, and for each ω fewer layers; the one that goes furthest where none goes so far.
    """
    x, best = as_float(clean), Scale(0, 1.0, 1.0)
    before = fast_logits(frozen_copy(model), x).argmax(1)
    for omega in OMEGAS:
        for layers in range(1, normalisations(model) + 1):
            after = fast_logits(frozen_copy(amplified(model, layers, omega)), x).argmax(1)
            kept = float((after == before).float().mean())
            if kept < best.kept:
                best = Scale(layers, omega, kept)
            if best.kept <= wanted:
                return best
    return best


def consistency(model: Classifier, images: np.ndarray, scale: Scale) -> np.ndarray:
    """Mean probability of the original answer over the amplified models, shape (n,), in [0, 1]; high is suspicious."""
    x = as_float(images)
    own = fast_logits(frozen_copy(model), x).argmax(1)
    shares: list[Tensor] = []
    for layers in range(max(1, scale.layers - MODELS + 1), scale.layers + 1):
        answers = fast_logits(frozen_copy(amplified(model, layers, scale.omega)), x)
        shares.append(answers.softmax(1).gather(1, own[:, None])[:, 0])
    return torch.stack(shares).mean(0).numpy() if shares else np.ones(len(images))
