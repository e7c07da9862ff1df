"""Model extraction: a copy that learns from a service's answers, within a budget of queries (Tramèr 2016)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.privacy.whitening import whitening

STEPS, RATE, DECAY = 300, 0.05, 1e-3


def extract(features: Tensor, answers: np.ndarray, *, hidden: int = 0, seed: int) -> Callable[[Tensor], np.ndarray]:
    """Learn a copy from answers; it maps features (n, width) to class indices (n,).

    Args:
        features: of the queries, as the attacker computes them: shape (queries, width). Of a student whose teacher is
            public, these are the teacher's.
        answers: what the service said, shape (queries, classes), each row at least 0.
        hidden: width of the copy's hidden layer; 0 for a linear one.

    Raises:
        GatehouseError: fewer than two queries, or another number of answers.
    """
    if len(features) != len(answers) or len(features) < 2:
        raise GatehouseError(f"An extraction needs two queries or more and an answer to each, not {len(answers)}.")
    whiten = whitening(features)
    width, classes = features.shape[1], answers.shape[1]
    x = whiten(features) * width**0.5
    target = torch.from_numpy(np.asarray(answers, np.float32))
    target = target / target.sum(1, keepdim=True).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copy: nn.Module = nn.Linear(width, classes)
        if hidden:
            copy = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    optimiser = torch.optim.AdamW(copy.parameters(), lr=RATE / (10 if hidden else 1), weight_decay=DECAY)
    for _ in range(STEPS):
        optimiser.zero_grad()
        F.cross_entropy(copy(x), target).backward()
        optimiser.step()

    @torch.no_grad()
    def labels(asked: Tensor) -> np.ndarray:
        return np.asarray(copy(whiten(asked) * width**0.5).argmax(1).numpy())

    return labels
