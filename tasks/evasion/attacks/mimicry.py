"""Feature mimicry (Wang 2018; study, section 3.2.1): make the teacher see another image, and ask the student.

The attacker holds the teacher's weights and a picture of the class that he wants; of the student he knows only that it
descends from this teacher. Where the student kept the teacher's features, it sees the other picture too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.evasion.attacks.budget import within
from tasks.models.architectures import Classifier
from tasks.models.inference import frozen_copy

REACH = 2.5  # length of all steps together, in budgets: every corner of the ball can be reached (Madry 2018)


def mimic(
    teacher: Classifier, x: Tensor, targets: Tensor, *, eps: float, steps: int, bfloat16: bool = False, batch: int = 32
) -> Tensor:
    """Images close to `x` whose penultimate teacher features are close to those of `targets`.

    Signed gradient descent on ‖T(x′) − T(target)‖² with projection and steps that shrink to zero; of all steps, each
    image keeps its closest.

    Args:
        teacher: is not changed; a copy is used.
        x, targets: images in [0, 1], shape (n, channels, side, side), row i of one for row i of the other.
        eps: L-infinity budget in pixel units of [0, 1].
        steps: number of gradient steps.
        bfloat16: features by autocast; measured, half the time at the same success.
        batch: images at a time; 32 fit a small machine's cache and run twice as fast as 128.
    """
    own = frozen_copy(teacher)
    parts = []
    for i in range(0, len(x), batch):
        piece = slice(i, i + batch)
        parts.append(_batch(own, x[piece], targets[piece], eps=eps, steps=steps, bfloat16=bfloat16))
    return torch.cat(parts) if parts else x.clone()


def _batch(teacher: Classifier, x: Tensor, targets: Tensor, *, eps: float, steps: int, bfloat16: bool) -> Tensor:
    with torch.no_grad():
        wanted = teacher.features(_layout(targets))
    best, closest = x, torch.full((len(x),), torch.inf)
    changed = x
    for step in range(steps + 1):
        changed = _layout(changed.detach()).requires_grad_(step < steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            features = teacher.features(changed)
        distance = (features.float() - wanted).square().sum(1)
        better = distance.detach() < closest
        best = torch.where(better.view(-1, 1, 1, 1), changed.detach(), best)
        closest = torch.where(better, distance.detach(), closest)
        if step < steps:
            (gradient,) = torch.autograd.grad(distance.sum(), changed)
            length = 2 * REACH * eps / steps * (1 - step / steps)
            changed = within(changed.detach() - length * gradient.sign(), x, eps=eps)
    return best


def _layout(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
