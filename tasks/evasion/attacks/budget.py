"""What every attack must keep to: the budget around the original, and the range of pixels."""

from __future__ import annotations

from torch import Tensor

REACH = 2.5  # length of all steps together, in budgets: every corner of the ball can be reached (Madry 2018)


def within(changed: Tensor, x: Tensor, *, eps: float) -> Tensor:
    """Project `changed` on the L-infinity ball of radius `eps` around `x` and on [0, 1]."""
    return changed.clamp(x - eps, x + eps).clamp(0, 1)


def stepped(changed: Tensor, gradient: Tensor, x: Tensor, *, eps: float, step: int, steps: int) -> Tensor:
    """One signed step down the gradient and back within the budget; steps shrink to zero and reach REACH in all."""
    length = 2 * REACH * eps / steps * (1 - step / steps)
    return within(changed.detach() - length * gradient.sign(), x, eps=eps)
