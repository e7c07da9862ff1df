"""The re-activation test: was the backdoor removed, or is it asleep?

A purified model can relearn its backdoor from a handful of poisoned images within a few steps (Min 2024). Any model
learns a backdoor from poison in the end, so one that never had it is put to the same test beside: what counts is the
difference in speed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from tasks.backdoor.attacks.badnets import poison
from tasks.backdoor.control import Control, trigger_control
from tasks.backdoor.net import spread
from tasks.backdoor.triggers import Mark
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.freezing import train_mode
from tasks.models.inference import as_float, logits

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 images (n, channels, side, side), int64 labels (n,)
IMAGES = 500
POISON_RATE = 0.01
STEPS = 40
RATE = 0.0003
BATCH = 64
LOOKS = 4  # how often control is measured on the way


@dataclass(frozen=True)
class Reactivation:
    """Control of a trigger before and after the steps, and of its target class (`curve`) at `at` steps on the way."""

    target_class: int
    before: Control
    after: Control
    at: tuple[int, ...]
    curve: tuple[float, ...]
    poisoned_images: int
    model: Classifier = field(repr=False, compare=False)  # as it is after the steps

    @property
    def relearned(self) -> float:
        """How far the steps raised the worst class's control."""
        return self.after.value - self.before.value

    def as_json(self) -> dict[str, Any]:
        return {
            "target_class": self.target_class,
            "before": self.before.as_json(),
            "after": self.after.as_json(),
            "relearned": round(self.relearned, 6),
            "at": list(self.at),
            "curve": [round(v, 6) for v in self.curve],
            "poisoned_images": self.poisoned_images,
        }


def reactivate(
    model: Classifier,
    images: Labelled,
    held_out: Labelled,
    trigger: Mark,
    *,
    target_class: int | None = None,
    poison_rate: float = POISON_RATE,
    limit: int = IMAGES,
    steps: int = STEPS,
    learning_rate: float = RATE,
    seed: int,
) -> Reactivation:
    """Fine-tune a copy of `model` on a few images, a few of them poisoned, and measure the trigger's control.

    Args:
        images: clean images to fine-tune on; at most `limit` are used, evenly spread.
        held_out: clean images to measure control on.
        target_class: what the poisoned images are labelled; by default the class that the trigger raises most now.
        poison_rate: share of the fine-tuning images that get the trigger, in (0, 1).
        steps: of Adam, at a constant `learning_rate`, on batches of at most 64; all weights train.

    Raises:
        GatehouseError: fewer than two images, or a rate that poisons none.
    """
    rows = spread(len(images[1]), limit)
    if len(rows) < 2:
        raise GatehouseError("The re-activation test needs at least two images to fine-tune on; check the splits.")
    own = copy.deepcopy(model).requires_grad_(True).eval()
    clean = logits(own, held_out[0]).argmax(1).numpy()
    before = _control(own, clean, held_out, trigger)
    target = before.worst_class if target_class is None else target_class
    few = (images[0][rows], images[1][rows])
    x, y = poison(*few, trigger=trigger, target_class=target, poison_rate=poison_rate, seed=seed)
    optimiser = torch.optim.Adam(own.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    at = tuple(sorted({round(steps * i / LOOKS) for i in range(1, LOOKS + 1)} - {0}))
    queue: list[torch.Tensor] = []
    curve, after = [before.by_class[target]], before
    for step in range(1, steps + 1):
        queue = queue or [b for b in torch.randperm(len(y), generator=generator).split(BATCH) if len(b) > 1]
        batch = queue.pop().numpy()
        train_mode(own, 0)
        loss = F.cross_entropy(own(as_float(x[batch])), torch.from_numpy(y[batch]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step in at:
            # Beside the clean answers of the model as it is now: steps move those too, and that is no control.
            now = logits(own, held_out[0]).argmax(1).numpy()
            after = _control(own, now, held_out, trigger)
            curve.append(after.by_class[target])
    return Reactivation(
        target, before, after, (0, *at), tuple(curve), int((x != few[0]).any((1, 2, 3)).sum()), own.eval()
    )


def _control(model: Classifier, clean: np.ndarray, held_out: Labelled, trigger: Mark) -> Control:
    triggered = logits(model, trigger.apply_uint8(held_out[0])).argmax(1).numpy()
    return trigger_control(clean, triggered, held_out[1], classes=model.head.out_features)
