"""Targeted unlearning (the patching of Neural Cleanse, Wang 2019): found triggers are trained away.

The patches that the gate's own search found are pasted on a share of the clean images, which keep their right labels;
a few epochs teach the network that they mean nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np

from tasks.backdoor.defences.common import Labelled, Mitigated
from tasks.backdoor.triggers import Trigger
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import accuracy_of
from tasks.models.training import Epoch, fit
from tasks.params import FreezePolicy, Training

SHARE = 0.5


def unlearn(
    model: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    triggers: Sequence[Trigger],
    share: float = SHARE,
    policy: FreezePolicy = "all",
    seed: int,
    progress: Callable[[Epoch], None] | None = None,
) -> Mitigated:
    """Fine-tune a copy of `model` on images that carry the triggers; the original stays as it is.

    Args:
        triggers: recovered ones, such as those of `tasks.backdoor.search.Found.patches`.
        share: of the images that carry one, in (0, 1]; validation images too, so that the epoch kept is one in which
            the triggers do nothing.

    Raises:
        GatehouseError: no triggers.
    """
    if not triggers:
        raise GatehouseError("Targeted unlearning needs at least one recovered trigger; run the patch search first.")
    copied = copy.deepcopy(model)
    before = accuracy_of(copied, val)
    history = fit(
        copied,
        pasted(train, triggers, share=share, seed=seed),
        pasted(val, triggers, share=share, seed=seed + 1),
        training,
        policy=policy,
        seed=seed,
        progress=progress,
    )
    return Mitigated(
        copied,
        {
            "did": f"trained {len(history)} epochs against {len(triggers)} recovered triggers",
            "triggers": len(triggers),
            "accuracy_before": before,
            "accuracy_after": accuracy_of(copied, val),
        },
    )


def pasted(part: Labelled, triggers: Sequence[Trigger], *, share: float, seed: int) -> Labelled:
    """A copy in which round(share · n) images carry one of the triggers each, in turn; labels stay right."""
    rng = np.random.default_rng(seed)
    images = part[0].copy()
    chosen = rng.permutation(len(images))[: round(share * len(images))]
    for i, trigger in enumerate(triggers):
        rows = chosen[i :: len(triggers)]
        images[rows] = trigger.apply_uint8(images[rows])
    return images, part[1]
