"""A clean-label attack, the hidden trigger (Saha 2020): every poisoned image looks like, and is labelled as, its class.

Poisons are images of the target class changed by at most `eps` a pixel until their features are those of triggered
images of other classes. Trained on them, the model takes these features, and so the trigger, for the target class.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from tasks.backdoor.attacks import badnets
from tasks.backdoor.triggers import Trigger
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, features, frozen_copy
from tasks.models.training import fit
from tasks.params import FreezePolicy, Training

Labelled = tuple[np.ndarray, np.ndarray]
EPS = 16 / 255  # of the paper
STEPS = 40
ROUNDS = 4  # in which poisons are matched anew with the triggered images nearest to them
BATCH = 128


def collide(
    model: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    trigger: Trigger,
    target_class: int,
    poison_rate: float,
    eps: float = EPS,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(poisoned copies of the images, rows that were changed); the labels stay as they are.

    round(poison_rate · n) images of the target class, or all of them where there are fewer, are moved by sign steps
    within `eps` (pixel units of [0, 1], L-infinity) to the penultimate features of triggered images of other classes.
    """
    rng = np.random.default_rng(seed)
    own, others = np.flatnonzero(labels == target_class), np.flatnonzero(labels != target_class)
    count = min(round(poison_rate * len(labels)), len(own))
    if count == 0 or not len(others):
        raise GatehouseError(
            f"A poison rate of {poison_rate} poisons none of {len(own)} images of the target class; raise the rate."
        )
    rows = np.sort(rng.choice(own, size=count, replace=False))
    sources = rng.choice(others, size=min(len(others), 2 * count), replace=False)
    wanted = features(model, trigger.apply_uint8(images[sources]))
    net, start = frozen_copy(model), as_float(images[rows])
    x = start.clone()
    for done in range(ROUNDS):
        free = torch.cdist(features(net, x), wanted)
        goal = wanted[_one_to_one(free)]
        rate = eps / 4 / 2**done
        for i in range(0, count, BATCH):
            part = slice(i, i + BATCH)
            for _ in range(STEPS // ROUNDS):
                x[part] = _closer(net, x[part], goal[part], start[part], rate=rate, eps=eps)
    out = images.copy()
    out[rows] = (x * 255).round().to(torch.uint8).numpy()
    return out, rows


def _one_to_one(distances: Tensor) -> Tensor:
    """For each row a column of its own, the nearest still free, in order of the rows' nearest distances."""
    taken = torch.zeros(distances.shape[1], dtype=torch.bool)
    chosen = torch.zeros(len(distances), dtype=torch.long)
    for row in distances.amin(1).argsort().tolist():
        if bool(taken.all()):
            taken[:] = False
        chosen[row] = distances[row].masked_fill(taken, float("inf")).argmin()
        taken[chosen[row]] = True
    return chosen


def _closer(net: Classifier, x: Tensor, goal: Tensor, start: Tensor, *, rate: float, eps: float) -> Tensor:
    """One sign step of each image to its goal in feature space, kept within `eps` of where it started and in [0, 1]."""
    x = x.clone().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        distance = (net.features(x.contiguous(memory_format=torch.channels_last)).float() - goal).square().sum()
    (gradient,) = torch.autograd.grad(distance, x)
    moved = x.detach() - rate * gradient.sign()
    return torch.minimum(torch.maximum(moved, start - eps), start + eps).clamp(0, 1)


def plant_clean_label(
    clean: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    trigger: Trigger,
    target_class: int,
    poison_rate: float,
    eps: float = EPS,
    policy: FreezePolicy = "last",
    seed: int,
) -> Classifier:
    """A copy of the clean teacher fine-tuned on data with collided poisons (the paper: the last layers alone).

    Validation data carry the trigger with the attacker's label on a share of the images, so that the epoch kept is
    one in which the backdoor works; nobody trains on them.
    """
    images, _ = collide(
        clean, *train, trigger=trigger, target_class=target_class, poison_rate=poison_rate, eps=eps, seed=seed
    )
    attacked = badnets.poison(
        *val,
        trigger=trigger,
        target_class=target_class,
        poison_rate=max(poison_rate, badnets.VALIDATION_RATE),
        seed=seed + 1,
    )
    model = copy.deepcopy(clean)
    fit(model, (images, train[1]), attacked, training, policy=policy, seed=seed)
    return model
