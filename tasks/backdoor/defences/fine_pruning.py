"""Fine-Pruning (Liu 2018): channels that clean images leave silent are cut, then the rest is trained on.

A backdoor uses spare capacity. Pruning takes the last convolution's least active channels away as long as validation
accuracy holds; fine-tuning repairs what that cost, with the pruned channels kept at zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tasks.backdoor.net import spread
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import features, logits
from tasks.models.metrics import balanced_accuracy
from tasks.models.training import Epoch, fit
from tasks.params import FreezePolicy, Training

Labelled = tuple[np.ndarray, np.ndarray]
GUARD = 0.04  # validation accuracy that pruning alone may cost, before fine-tuning


@dataclass(frozen=True)
class Pruned:
    """The mitigated model, the channels that were cut, and validation accuracies on the way (balanced)."""

    model: Classifier
    channels: tuple[int, ...]
    of: int
    accuracy_before: float
    accuracy_pruned: float
    accuracy_after: float
    history: tuple[Epoch, ...]


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
) -> Pruned:
    """Prune, then fine-tune a copy of `model`; the original stays as it is.

    Args:
        pruning_ratio: largest share of the last convolution's channels to cut, in [0, 1).
        policy: which features the fine-tuning may change (the method's paper trains all).
        guard: validation accuracy that the pruning may cost; it stops before it costs more.
    """
    copied = copy.deepcopy(model)
    before = _accuracy(copied, val)
    norm = last_norm(copied)
    quiet_first = np.argsort(mean_activation(copied, norm, train[0]), kind="stable")
    limit = int(pruning_ratio * len(quiet_first))
    kept_cut, accuracy = 0, before
    state = {k: v.clone() for k, v in copied.state_dict().items()}
    for count in _steps(limit):
        cut_channels(norm, quiet_first[:count])
        now = _accuracy(copied, val)
        if now < before - guard:
            break
        kept_cut, accuracy = count, now
    copied.load_state_dict(state)
    channels = quiet_first[:kept_cut]
    cut_channels(norm, channels)
    handles = _keep_at_zero(norm, channels)
    try:
        history = fit(copied, train, val, training, policy=policy, seed=seed, progress=progress)
    finally:
        for handle in handles:
            handle.remove()
    return Pruned(
        copied, tuple(sorted(int(c) for c in channels)), len(quiet_first), before, accuracy, _accuracy(copied, val),
        tuple(history),
    )  # fmt: skip


def last_norm(model: Classifier) -> nn.BatchNorm2d | nn.GroupNorm:
    """The normalisation layer behind the last convolution; zero scale and shift there silence a channel."""
    found = [m for m in model.blocks.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm) and m.affine]
    if not found:
        raise GatehouseError(
            "Fine-Pruning needs a normalisation layer behind the last convolution; this model has none."
        )
    return found[-1]


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
    return (torch.stack(sums).sum(0) / len(some)).numpy()


@torch.no_grad()
def cut_channels(norm: nn.BatchNorm2d | nn.GroupNorm, channels: np.ndarray) -> None:
    """Scale and shift of these channels become zero, so their output is."""
    rows = torch.from_numpy(np.asarray(channels, dtype=np.int64))
    norm.weight[rows] = 0
    norm.bias[rows] = 0


def _keep_at_zero(norm: nn.BatchNorm2d | nn.GroupNorm, channels: np.ndarray) -> list[torch.utils.hooks.RemovableHandle]:
    """Mask the gradients of what was cut: AdamW leaves a zero weight with zero gradients at zero."""
    mask = torch.ones_like(norm.weight)
    mask[torch.from_numpy(np.asarray(channels, dtype=np.int64))] = 0
    for parameter in (norm.weight, norm.bias):
        parameter.requires_grad_(True)  # a hook needs it; fit decides afterwards what really trains
    return [p.register_hook(lambda gradient: gradient * mask) for p in (norm.weight, norm.bias)]


def _steps(limit: int) -> list[int]:
    """Numbers of channels to try, rising in about sixteen steps up to the limit."""
    return sorted({round(limit * i / 16) for i in range(1, 17)} - {0})


def _accuracy(model: Classifier, part: Labelled) -> float:
    return balanced_accuracy(logits(model, part[0]).argmax(1).numpy(), part[1])
