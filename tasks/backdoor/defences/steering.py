"""Patterns that steer this model and none of the clean references: a natural weakness is shared, a planted one is not.

Small patches steer any classifier, honest or not, so how far the best patch goes says little. But honest models of one
task are weak to much the same patterns. Patches (and one pattern over the whole image) are optimised for the model
against the references, and what counts is how much further they move the model than them, place by place: at the
centre every model is weak, and what stands out there would be usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.backdoor.control import class_rises
from tasks.backdoor.defences.shadow import log_odds
from tasks.backdoor.net import BATCH, fast_logits, fast_predictions
from tasks.backdoor.patterns import PLACES, position, quantise
from tasks.backdoor.scan import first_of_each_class
from tasks.backdoor.triggers import Trigger, pixels
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy

Labelled = tuple[np.ndarray, np.ndarray]
RATE = 0.25  # first size of a sign step, in pixel units
CAP = 6.0  # log-odds in standard deviations beyond which an image pulls no more
AGAINST = 1  # references that take part in the second half of the gradient steps
OPACITY = 0.1  # of the pattern over the whole image
IMAGES, PER_STEP, JUDGED = 64, 8, 20
SPREAD = 0.2  # added to the references' spread of an excess, in standard deviations of log-odds


@dataclass(frozen=True)
class Steered:
    """A pattern for one class, and what it does, on images of other classes.

    `own` and `references` are mean changes of the class's log-odds in standard deviations of each model's clean ones
    (the references': the largest among them); `control` and `reference_control` are shares of images moved to the
    class beyond its clean rate, of the model and on average over the references.
    """

    target_class: int
    place: str
    trigger: Trigger
    own: float
    references: float
    control: float
    reference_control: float

    @property
    def excess(self) -> float:
        return self.own - self.references


def steer(
    model: Classifier,
    references: Sequence[Classifier],
    images: Labelled,
    *,
    patch_fraction: float,
    steps: int = 12,
    seed: int,
) -> tuple[list[Steered], list[Steered]]:
    """A patch for every class and place, and a whole-image pattern for every class, in the same order for every model.

    Args:
        references: clean models of the same task, in no particular state; at least one, the first AGAINST of them take
            part in the gradient and all in the measurement.
        images: clean uint8 images (n, channels, side, side) and labels (n,), at least two classes.
        patch_fraction: side of the patches as a fraction of the image's.
    """
    if not references or len(np.unique(images[1])) < 2:
        raise GatehouseError("The steering search needs a clean reference model and images of at least two classes.")
    rows = first_of_each_class(images[1], IMAGES)
    x, labels = as_float(images[0][rows]), images[1][rows]
    nets = [frozen_copy(m) for m in (model, *references)]
    scales = [log_odds(fast_logits(net, x)).std(0).clamp(min=1e-6) for net in nets]
    classes, size = model.head.out_features, x.shape[-1]
    side = pixels(patch_fraction, size)
    aimed = [c for c in range(classes) if (labels != c).any()]
    spots = [(c, place, *position(place, side, size), 1.0) for place in PLACES for c in aimed]
    whole = [(c, "whole image", 0, 0, OPACITY) for c in aimed]
    measured = []
    for group, width in ((spots, side), (whole, size)):
        found = _climb(nets, scales, x, labels, group, width, steps=steps, seed=seed)
        measured.append(_measured(nets, scales, x, labels, group, found))
    return measured[0], measured[1]


def excesses(found: Sequence[Steered]) -> np.ndarray:
    """How much further each pattern moves the model than any reference, shape (patterns,)."""
    return np.array([s.excess for s in found])


def standing_out(own: np.ndarray, references: Sequence[np.ndarray]) -> float:
    """Log of the largest deviation of a model's excesses from clean references' at the same class and place.

    Each reference's excesses must have been measured beside others. Deviations below a tenth count as a tenth.
    """
    values = np.stack(references)
    deviations = (own - values.mean(0)) / (values.std(0, ddof=1) + SPREAD)
    return float(np.log(max(deviations.max(), 0.1)))


Spot = tuple[int, str, int, int, float]  # class, place, top, left, opacity


def _climb(
    nets: Sequence[Classifier],
    scales: Sequence[Tensor],
    x: Tensor,
    labels: np.ndarray,
    spots: Sequence[Spot],
    side: int,
    *,
    steps: int,
    seed: int,
) -> Tensor:
    """Patterns (spots, channels, side, side) after sign steps, half of them on the model alone, half against others."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(len(spots), x.shape[1], side, side, generator=generator)
    pools = {c: torch.from_numpy(np.flatnonzero(labels != c)) for c, *_ in spots}
    alive = list(range(len(spots)))
    for k in range(steps):
        rate = RATE * 0.5 * (1 + np.cos(np.pi * k / steps))
        for i in range(0, len(alive), max(1, BATCH // PER_STEP)):
            group = alive[i : i + max(1, BATCH // PER_STEP)]
            drawn = [pools[spots[j][0]] for j in group]
            batches = [x[pool[torch.randint(len(pool), (PER_STEP,), generator=generator)]] for pool in drawn]
            used = 1 if k < steps // 2 else 1 + AGAINST
            gradient = _gradient(nets[:used], scales, batches, [spots[j] for j in group], patterns[group])
            patterns[group] = (patterns[group] + rate * gradient.sign()).clamp(0, 1)
    return quantise(patterns)


def _gradient(
    nets: Sequence[Classifier],
    scales: Sequence[Tensor],
    batches: Sequence[Tensor],
    spots: Sequence[Spot],
    patterns: Tensor,
) -> Tensor:
    patterns = patterns.clone().requires_grad_(True)
    pieces = [
        Trigger(p, top, left, alpha).apply(b)
        for b, p, (_, _, top, left, alpha) in zip(batches, patterns, spots, strict=True)
    ]
    batch = torch.cat(pieces).contiguous(memory_format=torch.channels_last)
    target = torch.tensor([s[0] for s in spots]).repeat_interleave(len(batch) // len(spots))[:, None]
    total = torch.zeros(len(spots))
    for i, (net, scale) in enumerate(zip(nets, scales, strict=False)):
        with torch.autocast("cpu", torch.bfloat16):
            output = net(batch).float()
        odds = (log_odds(output) / scale).gather(1, target)[:, 0].view(len(spots), -1)
        # The model is pushed up to CAP, the references down to where they are sure of another class.
        total = total + odds.clamp(max=CAP).mean(1) if i == 0 else total - odds.clamp(min=-1).mean(1) / (len(nets) - 1)
    (gradient,) = torch.autograd.grad(total.sum(), patterns)
    return gradient


def _measured(
    nets: Sequence[Classifier],
    scales: Sequence[Tensor],
    x: Tensor,
    labels: np.ndarray,
    spots: Sequence[Spot],
    patterns: Tensor,
) -> list[Steered]:
    rows = {c: torch.from_numpy(np.flatnonzero(labels != c)[:JUDGED]) for c, *_ in spots}
    clean = [{c: fast_logits(net, x[own]) for c, own in rows.items()} for net in nets]
    found = []
    for (c, place, top, left, alpha), pattern in zip(spots, patterns, strict=True):
        trigger = Trigger(pattern, top, left, alpha)
        after = trigger.apply(x[rows[c]])
        shifts, controls = [], []
        for net, scale, before in zip(nets, scales, clean, strict=True):
            moved = fast_logits(net, after)
            shifts.append(float((log_odds(moved) - log_odds(before[c]))[:, c].mean() / scale[c]))
            controls.append(float((moved.argmax(1) == c).float().mean() - (before[c].argmax(1) == c).float().mean()))
        found.append(Steered(c, place, trigger, shifts[0], max(shifts[1:]), controls[0], float(np.mean(controls[1:]))))
    return found


def control_of(model: Classifier, found: Steered, images: Labelled) -> float:
    """Share of held-out images of other classes that the pattern moves to its class, beyond the class's clean rate."""
    net, x = frozen_copy(model), as_float(images[0])
    before, after = fast_predictions(net, x), fast_predictions(net, found.trigger.apply(x))
    return float(class_rises(before, after, images[1], model.head.out_features)[found.target_class])
