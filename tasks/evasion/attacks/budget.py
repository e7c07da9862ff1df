"""What every attack must keep to: the budget around the original, and the range of pixels."""

from __future__ import annotations

from torch import Tensor


def within(changed: Tensor, x: Tensor, *, eps: float) -> Tensor:
    """Project `changed` on the L-infinity ball of radius `eps` around `x` and on [0, 1]."""
    return changed.clamp(x - eps, x + eps).clamp(0, 1)
