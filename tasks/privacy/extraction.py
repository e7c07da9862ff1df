"""Model extraction: a copy that learns from a service's answers, within a budget of queries (Tramèr 2016)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.privacy.whitening import whitening

STEPS, RATE, DECAY = 300, 0.05, 1e-3


def extract(features: Tensor, answers: np.ndarray) -> Callable[[Tensor], np.ndarray]:
    """Learn a linear copy from answers; it maps features (n, width) to class indices (n,).

    It starts from zero, so that directions which no query shows stay at zero.

    Args:
        features: of the queries, as the attacker computes them: shape (queries, width). Of a student whose teacher is
            public, these are the teacher's.
        answers: what the service said, shape (queries, classes), each row at least 0.

    Raises:
        GatehouseError: fewer than two queries, or another number of answers.
    """
    if len(features) != len(answers) or len(features) < 2:
        raise GatehouseError(f"An extraction needs two queries or more and an answer to each, not {len(answers)}.")
    whiten, scale = whitening(features), features.shape[1] ** 0.5
    x = whiten(features) * scale
    target = torch.from_numpy(np.asarray(answers, np.float32))
    target = target / target.sum(1, keepdim=True).clamp_min(1e-6)
    weight = torch.zeros(features.shape[1], answers.shape[1], requires_grad=True)
    bias = torch.zeros(answers.shape[1], requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimiser.zero_grad()
        F.cross_entropy(x @ weight + bias, target).backward()
        optimiser.step()

    @torch.no_grad()
    def labels(asked: Tensor) -> np.ndarray:
        return np.asarray((whiten(asked) * scale @ weight + bias).argmax(1).numpy())

    return labels
