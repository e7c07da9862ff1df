"""ANP (Wu & Wang 2021): channels that an adversary could use are found by perturbing neurons, and pruned.

Every channel's scale gets a mask m in [0, 1]. Masks minimise alpha · loss(m) + (1 − alpha) · max over |δ|, |ξ| ≤ eps
of loss with scale (m + δ) and shift (1 + ξ) (equation 5); the mask falls where a perturbed channel does harm, as a
backdoored one does. Channels are cut from the lowest mask on, a group at a time; a group that costs more validation
accuracy than the guard allows is put back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from tasks.backdoor.defences.common import (
    GUARD,
    Labelled,
    Mitigated,
    Norm,
    batches,
    norms,
    rising,
    subset,
)
from tasks.models.architectures import Classifier
from tasks.models.inference import accuracy_of
from tasks.models.training import class_weights
from tasks.params import Training

EPS = 0.4
ALPHA = 0.2
STEPS = 300
RATE = 0.2
MOMENTUM = 0.9
IMAGES = 1500
THRESHOLD = 0.2  # a channel whose mask stays above is never cut


def prune_adversarially(
    model: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    eps: float = EPS,
    alpha: float = ALPHA,
    steps: int = STEPS,
    threshold: float = THRESHOLD,
    guard: float = GUARD,
    images: int = IMAGES,
    seed: int,
) -> Mitigated:
    """Prune channels of a copy of `model`; the original stays as it is, and no weight is trained.

    Args:
        training: its batch size, class weights and patches.
        eps: largest perturbation of a scale or shift, relative to it.
        alpha: weight of the loss without perturbation, in [0, 1].
        steps: of the masks.
        threshold: channels with masks below may be cut.
        guard: balanced validation accuracy that the pruning may cost in all.
        images: at most so many training images are used.
    """
    copied = copy.deepcopy(model).eval()
    before = accuracy_of(copied, val)
    masks = neuron_masks(
        copied, subset(train, images), training, eps=eps, alpha=alpha, steps=steps, seed=seed
    )  # fmt: skip
    layers = norms(copied)
    rows = [(name, i) for name, mask in masks.items() for i in range(len(mask))]
    values = np.concatenate([mask.numpy() for mask in masks.values()])
    order = [rows[i] for i in np.argsort(values, kind="stable")]
    below, start = int((values < threshold).sum()), 0
    gone: list[tuple[str, int]] = []
    for end in rising(below):
        group, start = order[start:end], end
        scales = [layers[name].weight[i].item() for name, i in group]
        _scale(layers, group, [0.0] * len(group))
        if accuracy_of(copied, val) < before - guard:
            _scale(layers, group, scales)
        else:
            gone += group
    return Mitigated(
        copied,
        {
            "did": f"cut {len(gone)} of {len(order)} channels, those most sensitive to perturbation",
            "channels": {name: sorted(i for n, i in gone if n == name) for name in layers},
            "of": len(order),
            "below_threshold": below,
            "accuracy_before": before,
            "accuracy_after": accuracy_of(copied, val),
        },
    )


def neuron_masks(
    model: Classifier, few: Labelled, training: Training, *, eps: float, alpha: float, steps: int, seed: int
) -> dict[str, Tensor]:
    """A mask in [0, 1] for every channel of every normalisation layer, by the layer's name, shape (channels,).

    It is the mean over the second half of the steps: the last one alone leaves many at exactly zero, in no order.
    """
    layers = norms(model)
    sizes = [len(layer.weight) for layer in layers.values()]
    generator = torch.Generator().manual_seed(seed)
    balance = class_weights(few[1], model.head.out_features) if training.class_weights else None
    mask = torch.ones(sum(sizes), requires_grad=True)
    optimiser = torch.optim.SGD([mask], lr=RATE, momentum=MOMENTUM)

    def loss(x: Tensor, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        changed = {}
        parts = zip(layers.items(), scale.split(sizes), shift.split(sizes), strict=True)
        for (name, layer), own_scale, own_shift in parts:
            changed[f"{name}.weight"] = layer.weight.detach() * own_scale
            changed[f"{name}.bias"] = layer.bias.detach() * own_shift
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            output = functional_call(model, changed, (x,))
        return F.cross_entropy(output.float(), y, weight=balance)

    ones, total = torch.ones(sum(sizes)), torch.zeros(sum(sizes))
    for step, (x, y) in enumerate(_endless(few, training, steps, seed)):
        noise = (torch.rand(2, len(ones), generator=generator) * 2 - 1) * eps
        noise.requires_grad_(True)
        (upward,) = torch.autograd.grad(loss(x, y, mask.detach() + noise[0], ones + noise[1]), noise)
        worst = (noise.detach() + eps * upward.sign()).clamp(-eps, eps)
        whole = alpha * loss(x, y, mask, ones) + (1 - alpha) * loss(x, y, mask + worst[0], ones + worst[1])
        (mask.grad,) = torch.autograd.grad(whole, mask)
        optimiser.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
            total += mask if step >= steps // 2 else 0
    return dict(zip(layers, (total / (steps - steps // 2)).split(sizes), strict=True))


def _endless(few: Labelled, training: Training, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches, epoch after epoch."""
    done, epoch = 0, 0
    while done < steps:
        for batch in batches(few, training, epoch=epoch, seed=seed):
            yield batch
            done += 1
            if done == steps:
                return
        epoch += 1


@torch.no_grad()
def _scale(layers: dict[str, Norm], channels: list[tuple[str, int]], scales: list[float]) -> None:
    """Set the scale of these channels; their shift stays, as under a mask."""
    for (name, i), scale in zip(channels, scales, strict=True):
        layers[name].weight[i] = scale
