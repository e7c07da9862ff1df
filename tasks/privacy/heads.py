"""Many small heads on the same frozen features, trained at once: reference models and drills in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.privacy.whitening import Whitening, whitening


@dataclass(frozen=True)
class Heads:
    """Weights of many heads: linear, or with one hidden layer of ReLU. Layer i maps as x · weights[i] + biases[i]."""

    whiten: Whitening
    weights: tuple[Tensor, ...]  # each (heads, inputs, outputs)
    biases: tuple[Tensor, ...]  # each (heads, 1, outputs)

    def __call__(self, features: Tensor) -> Tensor:
        """Logits of every head for features of shape (n, width); shape (heads, n, classes)."""
        return _forward(_inputs(self.whiten, features), self.weights, self.biases)


def _inputs(whiten: Whitening, features: Tensor) -> Tensor:
    """Whitened features with unit variance a direction."""
    return whiten(features) * features.shape[1] ** 0.5


def _forward(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    heads, _, outputs = weights[0].shape
    # All heads see the same records: their first layers are one matrix product.
    z = (x @ weights[0].transpose(0, 1).reshape(x.shape[1], -1)).view(len(x), heads, outputs).transpose(0, 1)
    z = z + biases[0]
    return torch.baddbmm(biases[1], torch.relu(z), weights[1]) if len(weights) > 1 else z


def random_halves(count: int, records: int, *, seed: int) -> np.ndarray:
    """Which records each of `count` models learns from, shape (count, records), bool.

    Every record is in half of the models (one more or less where `count` is odd), in random ones: with `count` ≥ 2
    each record has models that learnt from it and models that did not.
    """
    ranks = np.random.default_rng(seed).random((count, records)).argsort(0).argsort(0)
    return ranks < (count + 1) // 2


def train_heads(
    features: Tensor,
    labels: Tensor,
    included: np.ndarray,
    *,
    classes: int,
    hidden: int = 0,
    steps: int = 100,
    learning_rate: float = 0.1,
    weight_decay: float = 1e-3,
    seed: int = 0,
) -> Heads:
    """Train one head a row of `included` by full-batch Adam, all heads in one batched matrix product a step.

    Args:
        features: float32, shape (n, width).
        labels: int64 class indices, shape (n,), or (heads, n) where heads learn other labels.
        included: bool, shape (heads, n): the records that each head learns from.
        hidden: width of a hidden layer; 0 for a linear head.
        weight_decay: weight of half the squared norm of the weights in each head's loss.

    Raises:
        GatehouseError: a head would learn from no record.
    """
    if not included.any(1).all():
        raise GatehouseError("A reference model would learn from no record; the attack needs more images.")
    whiten = whitening(features)
    x = _inputs(whiten, features)
    share = torch.from_numpy(included / included.sum(1, keepdims=True)).to(torch.float32)
    widths = (features.shape[1], hidden, classes) if hidden else (features.shape[1], classes)
    generator = torch.Generator().manual_seed(seed)
    weights, biases = [], []
    for inputs, outputs in pairwise(widths):
        # A linear head has one optimum: from zero, directions that its records do not show stay at zero.
        spread = (1 / inputs) ** 0.5 if hidden else 0.0
        start = torch.randn(len(included), inputs, outputs, generator=generator) * spread
        weights.append(start.requires_grad_(True))
        biases.append(torch.zeros(len(included), 1, outputs, requires_grad=True))
    optimiser = torch.optim.Adam([*weights, *biases], lr=learning_rate)
    target = labels.expand(len(included), -1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        z = _forward(x, weights, biases)
        each = F.cross_entropy(z.flatten(0, 1), target.flatten(), reduction="none").view_as(share)
        # A sum over heads, so that no head's gradient depends on how many others there are.
        loss = (each * share).sum() + 0.5 * weight_decay * sum(w.square().sum() for w in weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return Heads(whiten, tuple(w.detach() for w in weights), tuple(b.detach() for b in biases))
