"""What gradient attacks climb: one number an image, larger where the model is more wrong."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the true class, shape (n,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best wrong logit less the true one, shape (n,): above 0 exactly where the answer is wrong (up to ties)."""
    true = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(true, -torch.inf).amax(1) - logits[true]


def margin_past_refusal(logits: Tensor, labels: Tensor, null: int) -> Tensor:
    """Best wrong logit that is no refusal, less the larger of the true one and the refusal's; shape (n,)."""
    neither = F.one_hot(labels, logits.shape[1]).bool()
    neither[:, null] = True
    held = torch.maximum(logits.gather(1, labels[:, None])[:, 0], logits[:, null])
    return logits.masked_fill(neither, -torch.inf).amax(1) - held


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted difference of logits ratio (Croce and Hein 2020, equation 7), shape (n,), invariant to logits' scale.

    The published denominator, the first logit less the mean of the third and fourth, needs four classes. With three the
    first less the third takes its place; with two there is no ratio but a constant, and the plain difference is used.
    """
    rows = torch.arange(len(labels))
    difference = logits[rows, targets] - logits[rows, labels]
    ordered = logits.sort(1, descending=True).values
    if logits.shape[1] == 2:
        return difference
    lower = ordered[:, 2] if logits.shape[1] == 3 else (ordered[:, 2] + ordered[:, 3]) / 2
    return difference / (ordered[:, 0] - lower + TINY)
