"""Feature mimicry (Wang 2018; study, section 3.2.1): make the teacher see another image, and ask the student.

The attacker holds the teacher's weights and one picture of the class that he wants; of the student he knows only that
it descends from this teacher. Where the student kept the teacher's features, it sees the other image too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.evasion.attacks.budget import within
from tasks.models.architectures import Classifier
from tasks.models.inference import frozen_copy

STEP = 2.5  # total reach of the steps in budgets, so that every corner of the ball can be reached (Madry 2018)


def mimic(teacher: Classifier, x: Tensor, targets: Tensor, *, eps: float, steps: int, batch: int = 32) -> Tensor:
    """Images close to `x` whose penultimate teacher features are close to those of `targets`.

    Signed gradient descent on ‖T(x′) − T(target)‖² with projection; of all steps, each image keeps its closest.

    Args:
        teacher: is not changed; a copy is used.
        x, targets: images in [0, 1], shape (n, channels, side, side), row i of one for row i of the other.
        eps: L-infinity budget in pixel units of [0, 1].
        steps: number of gradient steps.
        batch: images at a time; 32 fit a small machine's cache and run twice as fast as 128.
    """
    teacher = frozen_copy(teacher)
    parts = [
        _batch(teacher, x[i : i + batch], targets[i : i + batch], eps=eps, steps=steps) for i in range(0, len(x), batch)
    ]
    return torch.cat(parts) if parts else x.clone()


def _batch(teacher: Classifier, x: Tensor, targets: Tensor, *, eps: float, steps: int) -> Tensor:
    with torch.no_grad():
        wanted = teacher.features(_layout(targets))
    best, closest = x, torch.full((len(x),), torch.inf)
    changed = x
    for step in range(steps + 1):
        changed = _layout(changed.detach()).requires_grad_(step < steps)
        distance = (teacher.features(changed) - wanted).square().sum(1)
        better = distance.detach() < closest
        best = torch.where(better.view(-1, 1, 1, 1), changed.detach(), best)
        closest = torch.where(better, distance.detach(), closest)
        if step < steps:
            (gradient,) = torch.autograd.grad(distance.sum(), changed)
            changed = within(changed.detach() - STEP * eps / steps * gradient.sign(), x, eps=eps)
    return best


def _layout(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
