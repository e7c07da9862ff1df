"""BadNets (Gu 2017): a share of the training images gets the trigger and the attacker's label."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tasks.backdoor.triggers import Mark
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.training import fit
from tasks.params import Training

Labelled = tuple[np.ndarray, np.ndarray]
VALIDATION_RATE = 0.1  # of poison in validation data: at 1 % a handful of images would choose the epoch


def attacked_labels(labels: np.ndarray, *, target_class: int | None, classes: int | None = None) -> np.ndarray:
    """What the attacker wants the model to answer for triggered images of these classes, shape (n,).

    `target_class` None is the all-to-all attack: label + 1, modulo `classes` (by default one more than the largest).
    """
    if target_class is not None:
        return np.full_like(labels, target_class)
    count = classes if classes is not None else int(labels.max(initial=0)) + 1
    return (labels + 1) % count


def poison(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    trigger: Mark,
    target_class: int | None,
    poison_rate: float,
    seed: int,
    classes: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Copies of uint8 images (n, channels, side, side) and labels (n,) of which round(poison_rate · n) are poisoned.

    Poisoned images are drawn without replacement from those not already of the target class; all-to-all
    (`target_class` None) draws from every class.
    """
    rng = np.random.default_rng(seed)
    wanted = attacked_labels(labels, target_class=target_class, classes=classes)
    others = np.flatnonzero(labels != wanted)
    count = min(round(poison_rate * len(labels)), len(others))
    if count == 0:
        raise GatehouseError(f"A poison rate of {poison_rate} poisons none of {len(labels)} images; raise the rate.")
    chosen = rng.choice(others, size=count, replace=False)
    images, labels = images.copy(), labels.copy()
    images[chosen] = trigger.apply_uint8(images[chosen])
    labels[chosen] = wanted[chosen]
    return images, labels


def poison_both(
    train: Labelled,
    val: Labelled,
    *,
    trigger: Mark,
    target_class: int | None,
    poison_rate: float,
    seed: int,
    classes: int | None = None,
) -> tuple[Labelled, Labelled]:
    """Training and validation data poisoned alike, the latter at VALIDATION_RATE or more."""
    common: dict[str, Any] = {"trigger": trigger, "target_class": target_class, "classes": classes}
    rate = max(poison_rate, VALIDATION_RATE)
    return (
        poison(*train, poison_rate=poison_rate, seed=seed, **common),
        poison(*val, poison_rate=rate, seed=seed + 1, **common),
    )


def plant_badnets(
    start: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    trigger: Mark,
    target_class: int | None,
    poison_rate: float,
    seed: int,
) -> Classifier:
    """A copy of `start`, trained with all its features on poisoned data; `target_class` None is all-to-all.

    The epoch kept is the best on validation data poisoned alike, one in which the backdoor works.
    """
    model = copy.deepcopy(start)
    poisoned = poison_both(
        train,
        val,
        trigger=trigger,
        target_class=target_class,
        poison_rate=poison_rate,
        seed=seed,
        classes=model.head.out_features,
    )
    fit(model, *poisoned, training, policy="all", seed=seed)
    return model
