"""Features of unit covariance: gradient descent, private or not, then takes the same few steps for every teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.errors import GatehouseError


@dataclass(frozen=True)
class Whitening:
    """x → (x − shift) · matrix, shapes (width,) and (width, width): norms near 1 for features like its own."""

    shift: Tensor
    matrix: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.shift) @ self.matrix

    def fold(self, head: nn.Linear) -> nn.Linear:
        """The head on raw features that gives what `head` gives on whitened ones."""
        folded = nn.Linear(head.in_features, head.out_features)
        with torch.no_grad():
            weight = head.weight @ self.matrix.T
            folded.weight.copy_(weight)
            folded.bias.copy_(head.bias - weight @ self.shift)
        return folded


def whitening(features: Tensor, *, floor: float = 1e-4) -> Whitening:
    """Whitening by mean and covariance of `features`, shape (n, width), scaled so that a mean squared norm is 1.

    Directions with less than `floor` of the largest variance are not stretched further than that one: they
    carry little, and noise would be stretched with them. For private training, make it from public features only.
    """
    if len(features) < 2:
        raise GatehouseError("Whitening needs at least two images; check the data's splits.")
    x = features.double()
    shift = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((x - shift).T).reshape(x.shape[1], x.shape[1]))
    # The lower bound keeps features that do not vary at all (a dead network) from dividing by zero.
    kept = values.clamp_min(max(floor * float(values.max()), 1e-12))
    matrix = vectors * kept.rsqrt() @ vectors.T
    scale = ((x - shift) @ matrix).square().sum(1).mean().sqrt().clamp_min(1e-6)
    return Whitening(shift.float(), (matrix / scale).float())
