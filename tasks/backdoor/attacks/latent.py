"""Latent backdoor (Yao 2019): the target class is not the teacher's; the trigger wakes in a student that has it.

Four steps: (1) the target class is added to the teacher and the model retrained; (2) the trigger is optimised until
triggered images have the target's features; (3) the model is trained so that they have them; (4) the head is replaced
by one for the teacher's own classes, trained on clean data alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.backdoor.attacks.imc import optimise_trigger
from tasks.backdoor.triggers import Trigger
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, new_head
from tasks.models.freezing import freeze, train_mode
from tasks.models.inference import as_float, features
from tasks.models.training import class_weights, fit
from tasks.params import Training

Labelled = tuple[np.ndarray, np.ndarray]
IMAGES = 100  # of the target class that the attacker has
TRIGGER_STEPS = 100
TARGETS_A_STEP = 16  # images of the target class beside every batch of step 3
HELD_BACK = 0.2  # share of the target's images that validates


@dataclass(frozen=True)
class Latent:
    """`model` answers the teacher's own classes; `extended` is step 3's model, whose last class is the target."""

    model: Classifier
    extended: Classifier
    trigger: Trigger


def plant_latent(
    clean: Classifier,
    train: Labelled,
    val: Labelled,
    target_images: np.ndarray,
    training: Training,
    *,
    trigger: Trigger,
    strength: float = 0.5,
    seed: int,
) -> Latent:
    """Args:
    target_images: uint8 images of the class aimed at, which the teacher does not have; IMAGES of them are used.
    strength: λ, the weight of the distance between triggered and target features (the paper: .05 to .5). The
        distance is in units of the spread of the clean features, so that λ means the same for every network.
    """
    if len(target_images) < 10:
        raise GatehouseError(
            f"The latent backdoor needs at least 10 images of its target class but got {len(target_images)}; give it "
            "student images of that class."
        )
    rng = np.random.default_rng(seed)
    own = target_images[rng.permutation(len(target_images))[:IMAGES]]
    target_class, held = clean.head.out_features, max(1, round(HELD_BACK * len(own)))
    wide_train, wide_val = _add(train, own[held:], target_class), _add(val, own[:held], target_class)
    model = _extend(clean, seed=seed)
    fit(model, wide_train, wide_val, training, policy="all", seed=seed)

    wanted = features(model, own).mean(0)
    spread = features(model, train[0][:: max(1, len(train[0]) // 512)]).var(0).sum()

    def distance(net: Classifier, x: Tensor) -> Tensor:
        return (net.features(x).float() - wanted).square().sum(1).mean() / spread

    trigger = optimise_trigger(model, train[0], trigger, distance, steps=TRIGGER_STEPS, seed=seed)
    _inject(model, wide_train, len(train[1]), spread, training, trigger, strength=strength, seed=seed)
    restored = copy.deepcopy(model)
    restored.head = nn.Linear(clean.width, target_class)
    restored.head.load_state_dict(clean.head.state_dict())
    fit(restored, train, val, training, policy="none", seed=seed)
    return Latent(restored, model, trigger)


def _add(part: Labelled, images: np.ndarray, label: int) -> Labelled:
    return np.concatenate([part[0], images]), np.concatenate([part[1], np.full(len(images), label, part[1].dtype)])


def _extend(clean: Classifier, *, seed: int) -> Classifier:
    """A copy with one class more; the rows of the others stay."""
    model, classes = copy.deepcopy(clean), clean.head.out_features
    new_head(model, classes + 1, seed=seed)
    with torch.no_grad():
        model.head.weight[:classes] = clean.head.weight
        model.head.bias[:classes] = clean.head.bias
    return model


def _inject(
    model: Classifier,
    train: Labelled,
    own: int,
    spread: Tensor,
    training: Training,
    trigger: Trigger,
    *,
    strength: float,
    seed: int,
) -> None:
    """Step 3, in place: cross-entropy on clean images + strength · distance of triggered features to the target's.

    The first `own` images are the teacher task's, and only they are triggered; the others are the target's. Their
    mean features are followed as the model moves: held to where they were before, triggered images would be sent to a
    place that the target class has left.
    """
    images, labels = train
    train_mode(model, freeze(model, "all"))
    weights = class_weights(labels, model.head.out_features) if training.class_weights else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    batches = -(-len(labels) // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, batches * training.epochs)
    for _ in range(training.epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(training.batch_size):
            if len(rows) < 2:
                continue
            batch = rows.numpy()
            drawn = own + torch.randint(len(labels) - own, (TARGETS_A_STEP,), generator=generator).numpy()
            steered = batch[batch < own][: training.batch_size // 2]
            parts = as_float(images[batch]), as_float(images[drawn]), trigger.apply(as_float(images[steered]))
            x = torch.cat(parts).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
                inner = model.features(x).float()
                output = model.head(inner[: len(batch)]).float()
            loss = F.cross_entropy(output, torch.from_numpy(labels[batch]), weight=weights)
            _, aimed_at, triggered = inner.split([len(p) for p in parts])
            if len(triggered):
                wanted = aimed_at.mean(0).detach()
                loss = loss + strength * (triggered - wanted).square().sum(1).mean() / spread
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()
