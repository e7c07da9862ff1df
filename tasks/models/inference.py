"""Running a model over arrays of images, in batches and without gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tasks.models.architectures import Classifier


def as_float(images: np.ndarray) -> Tensor:
    """uint8 (n, channels, side, side) to float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32).div_(255.0)


@torch.no_grad()
def logits(model: Classifier, images: np.ndarray | Tensor, batch: int = 256) -> Tensor:
    """Logits of uint8 arrays or of float images in [0, 1]; shape (n, classes), in evaluation mode."""
    return _over_batches(model, images, batch, head=True)


@torch.no_grad()
def features(model: Classifier, images: np.ndarray | Tensor, batch: int = 256) -> Tensor:
    """Penultimate features, shape (n, width), in evaluation mode."""
    return _over_batches(model, images, batch, head=False)


def probabilities(model: Classifier, images: np.ndarray | Tensor, batch: int = 256) -> Tensor:
    """Softmax outputs, shape (n, classes)."""
    return logits(model, images, batch).softmax(1)


def _over_batches(model: Classifier, images: np.ndarray | Tensor, batch: int, *, head: bool) -> Tensor:
    was_training = model.training
    model.eval()
    parts = []
    for i in range(0, len(images), batch):
        piece = images[i : i + batch]
        x = as_float(piece) if isinstance(piece, np.ndarray) else piece
        x = x.contiguous(memory_format=torch.channels_last)
        parts.append(model(x) if head else model.features(x))
    model.train(was_training)
    if parts:
        return torch.cat(parts)
    return torch.empty(0, model.head.out_features if head else model.width)
