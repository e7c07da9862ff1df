"""BadNets (Gu 2017): a share of the training images gets the trigger and the attacker's label."""

from __future__ import annotations

import numpy as np

from tasks.backdoor.triggers import Trigger
from tasks.errors import GatehouseError


def poison(
    images: np.ndarray, labels: np.ndarray, *, trigger: Trigger, target_class: int, poison_rate: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Copies of uint8 images (n, channels, side, side) and labels (n,) of which round(poison_rate · n) are poisoned.

    Poisoned images are drawn from those not already of the target class, without replacement.
    """
    rng = np.random.default_rng(seed)
    others = np.flatnonzero(labels != target_class)
    count = min(round(poison_rate * len(labels)), len(others))
    if count == 0:
        raise GatehouseError(f"A poison rate of {poison_rate} poisons none of {len(labels)} images; raise the rate.")
    chosen = rng.choice(others, size=count, replace=False)
    images, labels = images.copy(), labels.copy()
    images[chosen] = trigger.apply_uint8(images[chosen])
    labels[chosen] = target_class
    return images, labels
