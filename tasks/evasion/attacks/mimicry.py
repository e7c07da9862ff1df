"""Feature mimicry (Wang 2018; study, section 3.2.1): make the teacher see another image, and ask the student.

The attacker holds the teacher's weights and a picture of the class that he wants; of the student he knows only that it
descends from this teacher. Where the student kept the teacher's features, it sees the other picture too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.evasion.attacks.budget import stepped
from tasks.evasion.attacks.network import Attacked
from tasks.evasion.attacks.noise import random_noise
from tasks.models.architectures import Classifier


def mimic(
    teacher: Classifier, x: Tensor, targets: Tensor, *, eps: float, steps: int, block: str | None = None,
    bfloat16: bool = False, batch: int = 32,
) -> Tensor:  # fmt: skip
    """Images close to `x` whose teacher features are close to those of `targets`.

    Signed gradient descent on ‖T(x′) − T(target)‖² with projection and steps that shrink to zero; of all steps, each
    image keeps its closest.

    Args:
        teacher: is not changed; a copy is used.
        x, targets: images in [0, 1], shape (n, channels, side, side), row i of one for row i of the other.
        eps: L-infinity budget in pixel units of [0, 1].
        steps: number of gradient steps.
        block: whose output is mimicked; the penultimate features by default.
        bfloat16: features by autocast; measured, half the time at the same success.
        batch: images at a time; 32 fit a small machine's cache and run twice as fast as 128.
    """
    net, exact = Attacked(teacher, bfloat16=bfloat16), Attacked(teacher, bfloat16=False)

    def distance(rows: slice) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            wanted = exact.features(targets[rows], block)
        return lambda images: (net.features(images, block) - wanted).square().sum(1)

    return _descend(distance, x, x, eps=eps, steps=steps, batch=batch)


def repel(
    teacher: Classifier, x: Tensor, *, eps: float, steps: int, seed: int, block: str | None = None,
    bfloat16: bool = False, batch: int = 32,
) -> Tensor:  # fmt: skip
    """The same without a target: features as far from the image's own as the budget allows.

    Args:
        seed: of the random start, without which there is no direction to leave in.
    """
    net, exact = Attacked(teacher, bfloat16=bfloat16), Attacked(teacher, bfloat16=False)

    def nearness(rows: slice) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            own = exact.features(x[rows], block)
        return lambda images: -(net.features(images, block) - own).square().sum(1)

    return _descend(nearness, x, random_noise(x, eps=eps, seed=seed), eps=eps, steps=steps, batch=batch)


def _descend(
    objective: Callable[[slice], Callable[[Tensor], Tensor]], x: Tensor, start: Tensor, *, eps: float, steps: int,
    batch: int,
) -> Tensor:  # fmt: skip
    """The images of least objective on the way from `start`, by signed steps, a batch of rows at a time."""
    parts = []
    for i in range(0, len(x), batch):
        rows = slice(i, i + batch)
        parts.append(_batch(objective(rows), x[rows], start[rows], eps=eps, steps=steps))
    return torch.cat(parts) if parts else x.clone()


def _batch(objective: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, *, eps: float, steps: int) -> Tensor:
    best, least = x, torch.full((len(x),), torch.inf)
    changed = start
    for step in range(steps + 1):
        changed = changed.detach().requires_grad_(step < steps)
        value = objective(changed)
        better = value.detach() < least
        best = torch.where(better.view(-1, 1, 1, 1), changed.detach(), best)
        least = torch.where(better, value.detach(), least)
        if step < steps:
            (gradient,) = torch.autograd.grad(value.sum(), changed)
            changed = stepped(changed, gradient, x, eps=eps, step=step, steps=steps)
    return best
