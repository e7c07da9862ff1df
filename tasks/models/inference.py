"""Running a model over arrays of images, in batches and without gradients."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.metrics import balanced_accuracy

BATCH = 64  # fits a small machine's cache: twice as fast as 256 on two cores


def as_float(images: np.ndarray) -> Tensor:
    """uint8 (n, channels, side, side) to float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32).div_(255.0)


@torch.no_grad()
def logits(model: Classifier, images: np.ndarray | Tensor, batch: int = BATCH) -> Tensor:
    """Logits of uint8 arrays or of float images in [0, 1]; shape (n, classes), in evaluation mode."""
    return _over_batches(model, images, batch, head=True)


@torch.no_grad()
def features(model: Classifier, images: np.ndarray | Tensor, batch: int = BATCH) -> Tensor:
    """Penultimate features, shape (n, width), in evaluation mode."""
    return _over_batches(model, images, batch, head=False)


def probabilities(model: Classifier, images: np.ndarray | Tensor, batch: int = BATCH) -> Tensor:
    """Softmax outputs, shape (n, classes)."""
    return logits(model, images, batch).softmax(1)


def accuracy_of(model: Classifier, part: tuple[np.ndarray, np.ndarray]) -> float:
    """Balanced accuracy on uint8 images (n, channels, side, side) and their int64 labels (n,)."""
    return balanced_accuracy(logits(model, part[0]).argmax(1).numpy(), part[1])


def frozen_copy(model: Classifier) -> Classifier:
    """A copy for attacks that need gradients of images alone: evaluation mode, no parameter gradients, fast layout."""
    own = copy.deepcopy(model).eval().requires_grad_(False)
    return own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack it


def require_finite(outputs: Tensor, *, source: str) -> Tensor:
    """The outputs themselves; raises GatehouseError where a model (`source`) gives NaN or infinity."""
    bad = int((~torch.isfinite(outputs)).any(1).sum())
    if bad:
        raise GatehouseError(
            f"{source} answers {bad} of {len(outputs)} images with values that are not finite; train or replace it."
        )
    return outputs


def _over_batches(model: Classifier, images: np.ndarray | Tensor, batch: int, *, head: bool) -> Tensor:
    modes = {module: module.training for module in model.modules()}  # frozen blocks differ from the rest in training
    model.eval()
    parts = []
    for i in range(0, len(images), batch):
        piece = images[i : i + batch]
        x = as_float(piece) if isinstance(piece, np.ndarray) else piece
        x = x.contiguous(memory_format=torch.channels_last)
        parts.append(model(x) if head else model.features(x))
    for module, training in modes.items():
        module.training = training
    if parts:
        return torch.cat(parts)
    return torch.empty(0, model.head.out_features if head else model.width)
