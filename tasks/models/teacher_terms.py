"""What a recipe adds to the loss to part a student from its teacher or to bind it: distances of features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.models.architectures import Classifier
from tasks.models.inference import frozen_copy
from tasks.params import Training

APART = 1.0  # squared distance, in squared lengths of the teacher's features, from which the student is far enough
TINY = 1e-6

Term = Callable[[Tensor, Tensor], Tensor]  # (images, the student's features of them) -> a scalar


def teacher_term(teacher: Classifier, training: Training) -> Term | None:
    """The term that the recipe asks for, or None; `teacher` is copied.

    `neuron_distance` penalises closeness up to APART (Wang 2018, section 6); `distillation` penalises distance, for a
    student that starts from fresh weights and shall know what the teacher knows (DELTA-R, Chin 2021).
    """
    if not (training.neuron_distance or training.distillation):
        return None
    own = frozen_copy(teacher)

    def term(x: Tensor, features: Tensor) -> Tensor:
        with torch.no_grad():
            known = own.features(x.detach()).float()
        gap = (features.float() - known).square().sum(1) / (known.square().sum(1) + TINY)
        apart = training.neuron_distance * (APART - gap).clamp(min=0).mean()
        return apart + training.distillation * gap.mean()

    return term
