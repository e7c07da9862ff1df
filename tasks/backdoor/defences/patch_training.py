"""Training on against patches, random and adversarial: the recipe of students, where it was off or too short."""

from __future__ import annotations

import copy
from collections.abc import Callable

from tasks.backdoor.defences.common import Labelled, Mitigated
from tasks.models.architectures import Classifier
from tasks.models.inference import accuracy_of
from tasks.models.training import Epoch, fit
from tasks.params import FreezePolicy, Training

PROBABILITY = 0.7  # of a random patch, where the recipe has none
SHARE = 1.0  # of images that may carry an adversarial patch, where the recipe has none
LONGER = 2  # times the epochs of other mitigations: patches have to grow before there is something to learn from


def train_against_patches(
    model: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    policy: FreezePolicy = "all",
    seed: int,
    progress: Callable[[Epoch], None] | None = None,
) -> Mitigated:
    """Train a copy of `model` on with patch-adversarial training; the original stays as it is."""
    copied = copy.deepcopy(model)
    before = accuracy_of(copied, val)
    own = training.model_copy(
        update={
            "epochs": LONGER * training.epochs,
            "patience": LONGER * training.epochs,
            "patch_probability": training.patch_probability or PROBABILITY,
            "patch_adversarial": training.patch_adversarial or SHARE,
        }
    )
    history = fit(copied, train, val, own, policy=policy, seed=seed, progress=progress)
    return Mitigated(
        copied,
        {
            "did": f"trained {len(history)} epochs against adversarial patches",
            "accuracy_before": before,
            "accuracy_after": accuracy_of(copied, val),
        },
    )
