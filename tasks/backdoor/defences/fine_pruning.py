"""Fine-Pruning (Liu 2018): channels that clean images leave silent are cut, then the rest is trained on.

A backdoor uses spare capacity. Pruning takes the last convolution's least active channels away as long as validation
accuracy holds; fine-tuning repairs what that cost, with the pruned channels kept at zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tasks.backdoor.defences.common import GUARD, Labelled, Mitigated, Norm, largest_cut, norms
from tasks.backdoor.net import spread
from tasks.models.architectures import Classifier
from tasks.models.inference import accuracy_of, features
from tasks.models.training import Epoch, fit
from tasks.params import FreezePolicy, Training


def fine_prune(
    model: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    pruning_ratio: float,
    policy: FreezePolicy = "all",
    seed: int,
    guard: float = GUARD,
    progress: Callable[[Epoch], None] | None = None,
) -> Mitigated:
    """Prune, then fine-tune a copy of `model`; the original stays as it is.

    Args:
        pruning_ratio: largest share of the last convolution's channels to cut, in [0, 1).
        policy: which features the fine-tuning may change (the method's paper trains all).
        guard: validation accuracy that the pruning may cost; it stops before it costs more.

    Returns:
        The note holds the channels cut, of how many, and balanced validation accuracies on the way.
    """
    copied = copy.deepcopy(model)
    before = accuracy_of(copied, val)
    norm = last_norm(copied)
    quiet_first = np.argsort(mean_activation(copied, norm, train[0]), kind="stable")
    state = {k: v.clone() for k, v in copied.state_dict().items()}
    kept = largest_cut(
        lambda count: cut_channels(norm, quiet_first[:count]),
        int(pruning_ratio * len(quiet_first)),
        lambda: accuracy_of(copied, val),
        floor=before - guard,
    )
    copied.load_state_dict(state)
    channels = quiet_first[:kept]
    cut_channels(norm, channels)
    pruned = accuracy_of(copied, val)
    handles = _keep_at_zero(norm, channels)
    try:
        history = fit(copied, train, val, training, policy=policy, seed=seed, progress=progress)
    finally:
        for handle in handles:
            handle.remove()
    return Mitigated(
        copied,
        {
            "did": f"cut {kept} of {len(quiet_first)} channels and trained {len(history)} epochs",
            "channels": sorted(int(c) for c in channels),
            "of": len(quiet_first),
            "accuracy_before": before,
            "accuracy_pruned": pruned,
            "accuracy_after": accuracy_of(copied, val),
        },
    )


def last_norm(model: Classifier) -> Norm:
    """The normalisation layer behind the last convolution; zero scale and shift there silence a channel."""
    return list(norms(model).values())[-1]


@torch.no_grad()
def mean_activation(model: Classifier, norm: nn.Module, images: np.ndarray, limit: int = 512) -> np.ndarray:
    """Mean of each channel's activation (after ReLU) over at most `limit` clean images, shape (channels,)."""
    sums: list[Tensor] = []

    def note(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sums.append(output.clamp(min=0).mean((2, 3)).sum(0))

    handle = norm.register_forward_hook(note)
    some = images[spread(len(images), limit)]
    try:
        features(model, some)
    finally:
        handle.remove()
    return (torch.stack(sums).sum(0) / len(some)).cpu().numpy()


@torch.no_grad()
def cut_channels(norm: Norm, channels: np.ndarray) -> None:
    """Scale and shift of these channels become zero, so their output is."""
    rows = torch.from_numpy(np.asarray(channels, dtype=np.int64))
    norm.weight[rows] = 0
    norm.bias[rows] = 0


def _keep_at_zero(norm: Norm, channels: np.ndarray) -> list[torch.utils.hooks.RemovableHandle]:
    """Mask the gradients of what was cut: AdamW leaves a zero weight with zero gradients at zero."""
    mask = torch.ones_like(norm.weight)
    mask[torch.from_numpy(np.asarray(channels, dtype=np.int64))] = 0
    for parameter in (norm.weight, norm.bias):
        parameter.requires_grad_(True)  # a hook needs it; fit decides afterwards what really trains
    return [p.register_hook(lambda gradient: gradient * mask) for p in (norm.weight, norm.bias)]
