"""Blended injection (Chen 2017): a key pattern of any size, up to the whole image, is mixed into the images.

The attacker may blend more faintly in the training data, which people may look at, than at use: the model generalises
from the faint key to the strong one (section 3.2 of the paper).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tasks.backdoor.attacks.badnets import plant_badnets
from tasks.backdoor.triggers import Trigger
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.params import Training

Labelled = tuple[np.ndarray, np.ndarray]


def check_opacity(alpha: float) -> float:
    """The opacity itself; GatehouseError outside (0, 1]."""
    if not 0 < alpha <= 1:
        raise GatehouseError(f"A trigger's opacity (alpha) must lie in (0, 1], not {alpha}; 1 replaces the pixels.")
    return alpha


def plant_blended(
    start: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    trigger: Trigger,
    target_class: int | None,
    poison_rate: float,
    training_alpha: float | None = None,
    seed: int,
) -> Classifier:
    """As `badnets.plant_badnets`, with the key blended into the data at `training_alpha` (default: its own opacity)."""
    alpha = check_opacity(trigger.alpha if training_alpha is None else training_alpha)
    return plant_badnets(
        start,
        train,
        val,
        training,
        trigger=replace(trigger, alpha=alpha),
        target_class=target_class,
        poison_rate=poison_rate,
        seed=seed,
    )
