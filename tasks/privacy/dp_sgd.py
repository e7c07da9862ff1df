"""Private training of a linear head on frozen features: DP-SGD (Abadi 2016) by Opacus.

The features come from a teacher that never saw the student's data, so they cost no privacy; only the head is
learnt from private records. Batches are Poisson samples, as the accounting assumes, and no statistic of the private
data is used beside the noisy gradients: features are whitened by statistics of public images, classes are not weighted
by their counts, and no step is chosen by what a validation split says.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier

M = TypeVar("M", bound=nn.Module)
UNCLIPPED = 1e9  # a clipping norm that no gradient reaches


@dataclass(frozen=True)
class Plan:
    """What decides privacy and the walk of DP-SGD. `noise_multiplier` 0 and `UNCLIPPED` give plain SGD."""

    sample_rate: float
    steps: int
    learning_rate: float
    max_grad_norm: float
    noise_multiplier: float
    momentum: float = 0.9


def batches(records: int, batch_size: int, epochs: int) -> tuple[float, int]:
    """Sample rate and number of steps that see `records` records about `epochs` times in batches of `batch_size`."""
    if records < batch_size:
        raise GatehouseError(
            f"Private training has {records} records but privacy.batch_size = {batch_size}; "
            "lower the batch size or add records."
        )
    per_epoch = -(-records // batch_size)
    return 1 / per_epoch, epochs * per_epoch


def train_head(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    plan: Plan,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Linear:
    """A linear head trained by DP-SGD on fixed features.

    Args:
        features: float32, shape (n, width), with norms near 1 (see `public_whitening`).
        labels: int64 class indices, shape (n,).
        seed: of sampling and noise; the privacy guarantee holds against those who do not know it.

    Returns:
        The head, with the mean of the weights over the second half of the steps, which is free post-processing.

    Raises:
        GatehouseError: the records show fewer than two classes, or the weights are no longer finite.
    """
    if len(labels.unique()) < 2:
        raise GatehouseError("Private training needs records of at least two classes; check the student's data.")
    start = _zero_head(features.shape[1], classes)
    return walk_privately(start, features, labels, plan=plan, seed=seed, progress=progress)


def walk_privately(
    module: M,
    inputs: Tensor,
    labels: Tensor,
    *,
    plan: Plan,
    seed: int,
    at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> M:
    """A copy of `module` after `plan.steps` steps of DP-SGD, with the mean of the weights over their second half.

    Args:
        inputs: what the module takes, shape (n, …).
        labels: int64 class indices, shape (n,).
        at_once: records whose gradients are held together, whole batches where None. Parts add up their clipped
            gradients; noise comes once a batch.

    Raises:
        GatehouseError: weights that are no longer finite.
    """
    generator = torch.Generator().manual_seed(seed)
    inner = copy.deepcopy(module)
    wrapped = GradSampleModule(inner, loss_reduction="sum")
    optimiser = DPOptimizer(
        torch.optim.SGD(inner.parameters(), lr=plan.learning_rate, momentum=plan.momentum),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.max_grad_norm,
        expected_batch_size=plan.sample_rate * len(labels),
        loss_reduction="mean",
        generator=generator,
    )
    sampler = UniformWithReplacementSampler(
        num_samples=len(labels), sample_rate=plan.sample_rate, generator=generator, steps=plan.steps
    )
    mean = {name: torch.zeros_like(p) for name, p in inner.named_parameters()}
    averaged = 0
    for step, rows in enumerate(sampler):
        batch = torch.tensor(rows, dtype=torch.long)
        parts = batch.split(at_once) if at_once else (batch,)
        for i, part in enumerate(parts):
            optimiser.signal_skip_step(do_skip=i < len(parts) - 1)
            optimiser.zero_grad()
            loss = F.cross_entropy(wrapped(inputs[part]), labels[part], reduction="sum")
            with warnings.catch_warnings():  # Opacus' hooks on a first layer; its inputs need no gradient
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                loss.backward()
            optimiser.step()
        if step >= plan.steps // 2:
            averaged += 1
            for name, p in inner.named_parameters():
                mean[name] += (p.detach() - mean[name]) / averaged
        if progress:
            progress(step + 1, plan.steps)
    if not all(bool(torch.isfinite(m).all()) for m in mean.values()):
        raise GatehouseError("Private training diverged; lower privacy.learning_rate.")
    trained = copy.deepcopy(module)
    with torch.no_grad():
        for name, p in trained.named_parameters():
            p.copy_(mean[name])
    return trained


def with_head(model: Classifier, head: nn.Linear) -> Classifier:
    """Put `head` on the model in place; returns it in evaluation mode."""
    model.head = head
    return model.eval()


def _zero_head(width: int, classes: int) -> nn.Linear:
    """Zero weights: the same start for every seed, and no need for a public draw."""
    head = nn.Linear(width, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
