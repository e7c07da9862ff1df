"""Private training of a whole network: DP-SGD (Abadi 2016) by Opacus, for networks that treat records one by one.

Good practice for utility (De 2022): large batches, group normalisation in the place of batch normalisation, and the
mean of the weights over the last half of the steps, which is free post-processing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.errors import GatehouseError
from tasks.privacy.dp_sgd import Plan, walk_privately

AT_ONCE = 64  # records whose gradients are held together
GROUPS = 4
# Layers that let one record change what another one contributes.
MIXING = (nn.modules.batchnorm._BatchNorm,)


def group_norm_cnn(classes: int, channels: int, *, width: int = 16, seed: int) -> nn.Sequential:
    """A small CNN for images (n, channels, side, side): four blocks of convolution, group norm and pooling."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        inputs = channels
        for block in range(4):
            outputs = width * min(2**block, 4)
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.GroupNorm(GROUPS, outputs),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            inputs = outputs
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def require_separable(module: nn.Module) -> None:
    """GatehouseError for a network in which records share statistics: no ε can be proven for it."""
    mixing = [name or type(m).__name__ for name, m in module.named_modules() if isinstance(m, MIXING)]
    if mixing:
        raise GatehouseError(
            f"No ε can be proven for this network: {', '.join(mixing[:3])} normalises by the batch, so that one record "
            "changes what others contribute. Put group normalisation in its place, or train the head alone."
        )


def train_privately(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    plan: Plan,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """A copy of `module`, trained by DP-SGD on records, in evaluation mode.

    Args:
        images: float32, shape (n, …), what the module takes.
        labels: int64 class indices, shape (n,).
        plan: `noise_multiplier` 0 and `UNCLIPPED` give plain SGD with momentum.
        seed: of batches and noise; the guarantee holds against those who do not know it.

    Raises:
        GatehouseError: batch normalisation, or weights that are no longer finite.
    """
    require_separable(module)
    return walk_privately(
        copy.deepcopy(module).train(), images, labels, plan=plan, seed=seed, at_once=AT_ONCE, progress=progress
    ).eval()
