"""Target-agnostic activation (Rezaei and Liu 2020; Chin 2021): drive one of the teacher's features far up, others to 0.

The attacker holds the teacher and no picture of the student's classes. A student that kept the features gives most
weight of some class to some of them, so that an image in which that feature alone is large is answered with that class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.evasion.attacks.budget import stepped
from tasks.evasion.attacks.network import Attacked
from tasks.models.architectures import Classifier

STEPS = 40  # Chin 2021
FAR = 10.0  # what the feature is driven to, in the largest feature of the images themselves


def activate(
    teacher: Classifier, x: Tensor, unit: int, *, eps: float, steps: int = STEPS, bfloat16: bool = False,
    batch: int = 32,
) -> Tensor:  # fmt: skip
    """Images close to `x` in which the penultimate feature `unit` is large and the others small.

    Signed gradient descent on ‖T(x′) − v·e_unit‖², v FAR times the largest feature that the images have.

    Args:
        x: images in [0, 1], shape (n, channels, side, side).
        unit: index of the feature, in [0, teacher.width).
        eps: L-infinity budget in pixel units of [0, 1].
    """
    net = Attacked(teacher, bfloat16=bfloat16)
    parts = []
    for piece in x.split(batch) if len(x) else ():
        with torch.no_grad():
            wanted = torch.zeros(len(piece), teacher.width)
            wanted[:, unit] = FAR * float(net.features(piece).abs().max())
        changed = piece
        for step in range(steps):
            changed = changed.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad((net.features(changed) - wanted).square().sum(), changed)
            changed = stepped(changed, gradient, piece, eps=eps, step=step, steps=steps)
        parts.append(changed.detach())
    return torch.cat(parts) if parts else x.clone()
