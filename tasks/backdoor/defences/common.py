"""What the mitigations share: their result, their batches, and how accuracy is guarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.backdoor.net import spread
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.augment import disturb
from tasks.models.inference import as_float
from tasks.params import Training

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 images (n, channels, side, side), int64 labels (n,)
Norm = nn.BatchNorm2d | nn.GroupNorm
GUARD = 0.04  # validation accuracy that pruning alone may cost


@dataclass(frozen=True)
class Mitigated:
    """A changed copy of a model in evaluation mode. `note` says in JSON what was done; `note["did"]` in words."""

    model: Classifier
    note: dict[str, Any]


def subset(part: Labelled, limit: int) -> Labelled:
    """At most `limit` images, evenly spread over the data."""
    rows = spread(len(part[1]), limit)
    return part[0][rows], part[1][rows]


def batches(train: Labelled, training: Training, *, epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of (float images in [0, 1], labels), shuffled, and randomised as `training` asks for."""
    if len(train[1]) < 2:
        raise GatehouseError("Mitigation needs at least two training images; check the data's splits.")
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    for rows in torch.randperm(len(train[1]), generator=generator).split(training.batch_size):
        if len(rows) < 2:  # BatchNorm needs two
            continue
        y = torch.from_numpy(train[1][rows.numpy()])
        x, _ = disturb(as_float(train[0][rows.numpy()]), y, training, None, generator)
        yield x.contiguous(memory_format=torch.channels_last), y


def norms(model: Classifier) -> dict[str, Norm]:
    """The normalisation layers with scale and shift, by name, in the model's order: one row of each a channel."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm) and m.affine}
    if not found:
        raise GatehouseError("Pruning needs a normalisation layer behind a convolution; this model has none.")
    return found


def largest_cut(cut: Callable[[int], None], limit: int, accurate: Callable[[], float], *, floor: float) -> int:
    """How many units can be cut before accuracy falls below `floor`: rising steps up to `limit`, up to the first fall.

    Args:
        cut: cuts the first so many units of the caller's order; what was cut before stays cut.
        accurate: the accuracy of what is left.
    """
    kept = 0
    for count in rising(limit):
        cut(count)
        if accurate() < floor:
            break
        kept = count
    return kept


def rising(limit: int, steps: int = 16) -> Sequence[int]:
    """Numbers of units to try, rising in about sixteen steps up to the limit."""
    return sorted({round(limit * i / steps) for i in range(1, steps + 1)} - {0})
