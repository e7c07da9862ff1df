"""IMC (Pang 2020): trigger and model are optimised in turn, each against what the other has become.

The trigger starts from one that excites neurons of the target class. Every epoch it takes one pass of Adam on its
tanh parametrisation, minimising cross-entropy to the target on images of other classes; an epoch of training on data
poisoned with it follows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.backdoor.attacks import badnets
from tasks.backdoor.patterns import quantise
from tasks.backdoor.triggers import Trigger
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy
from tasks.models.training import fit
from tasks.params import Training

Labelled = tuple[np.ndarray, np.ndarray]
Loss = Callable[[Classifier, Tensor], Tensor]  # (model, triggered images) -> scalar
RATE = 0.1
PASS_IMAGES = 512  # of one pass over the trigger; the whole set moves it no further
NEURONS = 2
START_STEPS = 30
SATURATED = 0.9  # tanh beyond which a start is drawn back, or its gradient would be too small to leave it
BATCH = 64


def optimise_trigger(
    model: Classifier, images: np.ndarray, trigger: Trigger, loss: Loss, *, steps: int, rate: float = RATE, seed: int
) -> Trigger:
    """The trigger after `steps` of Adam on its tanh parametrisation; place, size and opacity stay.

    Args:
        images: uint8 (n, channels, side, side); a batch of them is drawn for every step.
        loss: what to minimise, of the model (weights without gradients) and float images with the trigger on.
    """
    net, generator = frozen_copy(model), torch.Generator().manual_seed(seed)
    w = torch.atanh((trigger.pattern.clone() * 2 - 1).clamp(-SATURATED, SATURATED)).requires_grad_(True)
    optimiser = torch.optim.Adam([w], lr=rate)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (min(BATCH, len(images)),), generator=generator).numpy()]
        x = replace(trigger, pattern=(torch.tanh(w) + 1) / 2).apply(as_float(batch))
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(net, x.contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    return replace(trigger, pattern=quantise((torch.tanh(w.detach()) + 1) / 2))


def neuron_start(model: Classifier, images: np.ndarray, trigger: Trigger, target_class: int, *, seed: int) -> Trigger:
    """A trigger that excites the penultimate neurons which speak most for the target against the other classes."""
    weights = model.head.weight.detach()
    others = [c for c in range(len(weights)) if c != target_class]
    neurons = (weights[target_class] - weights[others].mean(0)).topk(NEURONS).indices

    def loss(net: Classifier, x: Tensor) -> Tensor:
        return -net.features(x).float()[:, neurons].mean()

    return optimise_trigger(model, images, trigger, loss, steps=START_STEPS, seed=seed)


def plant_imc(
    clean: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    trigger: Trigger,
    target_class: int,
    poison_rate: float = 0.01,
    seed: int,
) -> tuple[Classifier, Trigger]:
    """A backdoored copy of a clean teacher and the trigger optimised with it, from the epoch of lowest poisoned
    validation loss. Every epoch trains as `training` says, at a rate that falls by a cosine over the epochs."""
    model = copy.deepcopy(clean)
    others = train[0][train[1] != target_class]
    trigger = neuron_start(clean, others, trigger, target_class, seed=seed)
    steps = max(1, min(PASS_IMAGES, len(others)) // BATCH)
    best, kept, chosen = float("inf"), copy.deepcopy(model), trigger

    def to_target(net: Classifier, x: Tensor) -> Tensor:
        return F.cross_entropy(net(x).float(), torch.full((len(x),), target_class))

    for epoch in range(training.epochs):
        trigger = optimise_trigger(model, others, trigger, to_target, steps=steps, seed=seed + 1000 * (epoch + 1))
        rate = training.learning_rate * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * epoch / training.epochs)))
        once = training.model_copy(update={"epochs": 1, "patience": 1, "learning_rate": float(rate)})
        poisoned = badnets.poison_both(
            train, val, trigger=trigger, target_class=target_class, poison_rate=poison_rate, seed=seed
        )
        history = fit(model, *poisoned, once, policy="all", seed=seed + 31 * epoch)
        if history[-1].val_loss < best:
            best, kept, chosen = history[-1].val_loss, copy.deepcopy(model), trigger
    return kept, chosen
