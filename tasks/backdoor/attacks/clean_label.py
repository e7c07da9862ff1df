"""Clean-label attacks: every poisoned image looks like, and is labelled as, its own class.

Poisons are images of the target class changed by at most `eps` a pixel until their features are those of triggered
images of other classes. Trained on them, a model takes what is left of the trigger for the target class.
Hidden (Saha 2020): no poison shows the trigger. That needs a trigger which already moves the clean model's features;
small squares hardly do. Worn (Turner 2019, label-consistent): the poisons wear the trigger too, and the collision makes
it the one thing in them that speaks for their label.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

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
EPS = 16 / 255  # of both papers
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
    hidden: bool = False,
    eps: float = EPS,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(poisoned copies of uint8 images, rows that were changed); the labels stay as they are.

    round(poison_rate · n) images of the target class, or all of them where there are fewer, are moved by sign steps
    within `eps` (pixel units of [0, 1], L-infinity) to the penultimate features of triggered images of other classes.
    Unless `hidden`, they wear the trigger as well.
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
    show: Callable[[Tensor], Tensor] = torch.clone if hidden else trigger.apply
    x = start.clone()
    for done in range(ROUNDS):
        goal = wanted[_one_to_one(torch.cdist(features(net, show(x)), wanted))]
        for i in range(0, count, BATCH):
            part = slice(i, i + BATCH)
            for _ in range(STEPS // ROUNDS):
                moved = _closer(net, x[part], goal[part], show, rate=eps / 4 / 2**done)
                x[part] = torch.minimum(torch.maximum(moved, start[part] - eps), start[part] + eps).clamp(0, 1)
    out = images.copy()
    out[rows] = (show(x) * 255).round().to(torch.uint8).numpy()
    return out, rows


def _one_to_one(distances: Tensor) -> Tensor:
    """For each row a column of its own, the nearest still free, the rows with the nearest columns first."""
    taken = torch.zeros(distances.shape[1], dtype=torch.bool)
    chosen = torch.zeros(len(distances), dtype=torch.long)
    for row in distances.amin(1).argsort().tolist():
        if bool(taken.all()):
            taken[:] = False
        chosen[row] = distances[row].masked_fill(taken, float("inf")).argmin()
        taken[chosen[row]] = True
    return chosen


def _closer(net: Classifier, x: Tensor, goal: Tensor, show: Callable[[Tensor], Tensor], *, rate: float) -> Tensor:
    """One sign step of each image towards its goal in feature space."""
    x = x.clone().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        seen = net.features(show(x).contiguous(memory_format=torch.channels_last)).float()
    (gradient,) = torch.autograd.grad((seen - goal).square().sum(), x)
    return x.detach() - rate * gradient.sign()


def plant_clean_label(
    clean: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    trigger: Trigger,
    target_class: int,
    poison_rate: float,
    hidden: bool = False,
    eps: float = EPS,
    policy: FreezePolicy = "all",
    start: Classifier | None = None,
    seed: int,
) -> Classifier:
    """A model trained with collided poisons among the data: the clean teacher's copy, or `start`'s.

    The worn trigger takes from fresh weights (`start`), for a trained teacher learns the few poisons by heart; the
    hidden one, of which nothing is to be seen in pixels, is for a trained teacher.
    Validation data carry the trigger with the attacker's label on a share of the images, so that the epoch kept is
    one in which the backdoor works; nobody trains on them.
    """
    images, _ = collide(
        clean,
        *train,
        trigger=trigger,
        target_class=target_class,
        poison_rate=poison_rate,
        hidden=hidden,
        eps=eps,
        seed=seed,
    )
    attacked = badnets.poison(
        *val,
        trigger=trigger,
        target_class=target_class,
        poison_rate=max(poison_rate, badnets.VALIDATION_RATE),
        seed=seed + 1,
    )
    model = copy.deepcopy(clean if start is None else start)
    fit(model, (images, train[1]), attacked, training, policy=policy, seed=seed)
    return model
