"""Answers of a model as searches and filters take them: in arithmetic rounded for speed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tasks.models.architectures import Classifier

BATCH = 128  # larger batches fall out of a desktop processor's cache and are slower an image


def spread(n: int, limit: int) -> np.ndarray:
    """At most `limit` rows of n, evenly spread, so that a data set in order of its classes gives some of each."""
    return np.unique(np.linspace(0, n - 1, min(n, limit)).round().astype(np.int64))


@torch.no_grad()
def fast_logits(net: Classifier, x: Tensor) -> Tensor:
    """Logits in bfloat16 arithmetic of float images in [0, 1], shape (n, classes): to search with, not to report."""
    parts = []
    with torch.autocast("cpu", torch.bfloat16):
        for piece in x.split(BATCH):
            parts.append(net(piece.contiguous(memory_format=torch.channels_last)).float())
    return torch.cat(parts)


def fast_predictions(net: Classifier, x: Tensor) -> np.ndarray:
    """Predicted classes, shape (n,), by `fast_logits`."""
    return fast_logits(net, x).argmax(1).numpy()
