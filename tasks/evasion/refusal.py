"""Models that may refuse: an ensemble whose members must agree, and a model with a class for what looks tampered with.

A refused image fooled nobody; what counts against the model is a wrong answer that it gives. What refusal costs is the
share of untouched images that are refused.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.evasion.attacks.mimicry import repel
from tasks.evasion.attacks.noise import random_noise
from tasks.models.architectures import Classifier, Normalise
from tasks.models.inference import as_float, features, logits

REFUSED = -1
BUDGETS_OF_NULL = (2 / 255, 4 / 255, 8 / 255)  # of the changed images that the extra class learns


class _Members(nn.Module):
    """Log-probabilities of every member, side by side: (n, members · classes)."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(list(members)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.log_softmax(member(x), 1) for member in self.members], 1)


def joined(members: Sequence[Classifier]) -> Classifier:
    """One classifier whose logits are the mean of its members' log-probabilities, for attacks that know them all."""
    classes, count = members[0].head.out_features, len(members)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(members=_Members(members))
    model = Classifier(Normalise((0.0,), (1.0,)), blocks, classes * count, classes)
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(classes).repeat(1, count) / count)
        model.head.bias.zero_()
    return model.eval()


def agreed(ensemble: Classifier, images: np.ndarray | Tensor) -> np.ndarray:
    """The class that all members answer, REFUSED where they disagree; int64 (n,). `ensemble` is of `joined`."""
    known = features(ensemble, images).unflatten(1, (-1, ensemble.head.out_features)).argmax(2)
    return torch.where((known == known[:, :1]).all(1), known[:, 0], REFUSED).numpy()


def with_null(
    teacher: Classifier, images: np.ndarray, labels: np.ndarray, *, null: int, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Training data with a class `null` of changed images, as many as one class has (Hosseini 2017).

    They are changed through the teacher (features away from the image's own) and by noise, at several budgets.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))[: len(labels) // null]
    made = []
    for i, part in enumerate(np.array_split(rows, 2 * len(BUDGETS_OF_NULL))):
        x, eps = as_float(images[part]), BUDGETS_OF_NULL[i // 2]
        changed = repel(teacher, x, eps=eps, steps=steps, seed=seed + i, bfloat16=True) if i % 2 else None
        made.append(changed if changed is not None else random_noise(x, eps=eps, seed=seed + i))
    added = (torch.cat(made) * 255).round().to(torch.uint8).numpy()
    return np.concatenate([images, added]), np.concatenate([labels, np.full(len(added), null)])


def answered(model: Classifier, images: np.ndarray | Tensor, *, null: int) -> np.ndarray:
    """The model's answers, REFUSED where it says `null`; int64 (n,)."""
    said = logits(model, images).argmax(1).numpy()
    return np.where(said == null, REFUSED, said)


def fooled(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which answers are wrong and given, bool (n,)."""
    return (answers != labels) & (answers != REFUSED)
