"""Students of several teachers that vote (study 4.3.3): one backdoored teacher is outvoted, or the input refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.backdoor.control import Control, trigger_control
from tasks.backdoor.triggers import Mark
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import logits
from tasks.models.metrics import balanced_accuracy

Rule = Literal["majority", "unanimous"]
REFUSED = -1


@dataclass(frozen=True)
class EnsembleFigures:
    """`accuracy` (balanced) is of the answered images alone, NaN where none is; refusals are shares of all images."""

    members: int
    rule: Rule
    accuracy: float
    refusal_rate: float
    refusal_rate_triggered: float
    control: Control

    def as_json(self) -> dict[str, Any]:
        return {
            "members": self.members,
            "rule": self.rule,
            "accuracy": round(self.accuracy, 6),
            "refusal_rate": round(self.refusal_rate, 6),
            "refusal_rate_triggered": round(self.refusal_rate_triggered, 6),
            "trigger_control": self.control.as_json(),
        }


def answers(models: Sequence[Classifier], images: np.ndarray) -> np.ndarray:
    """Predicted classes of every member for uint8 images, shape (members, n)."""
    if len({model.head.out_features for model in models}) != 1:
        raise GatehouseError("An ensemble needs members that answer the same classes, and at least one of them.")
    return np.stack([logits(model, images).argmax(1).numpy() for model in models])


def vote(ballots: np.ndarray, *, rule: Rule) -> np.ndarray:
    """The ensemble's class for each image, shape (n,), or REFUSED.

    Args:
        ballots: each member's class, shape (members, n).
        rule: `majority` refuses where no class has more than half of the votes; `unanimous` at any disagreement.
    """
    members = len(ballots)
    votes = (ballots[:, None, :] == np.arange(ballots.max(initial=0) + 1)[None, :, None]).sum(0)  # (classes, n)
    enough = members if rule == "unanimous" else members // 2 + 1
    return np.where(votes.max(0) >= enough, votes.argmax(0), REFUSED)


def measure_ensemble(
    models: Sequence[Classifier], test: tuple[np.ndarray, np.ndarray], trigger: Mark, *, rule: Rule
) -> EnsembleFigures:
    """Accuracy, refusals, and the control that a trigger has over the ensemble; a refused image is steered nowhere.

    Args:
        test: uint8 images (n, channels, side, side) and labels (n,).
    """
    images, labels = test
    clean = vote(answers(models, images), rule=rule)
    triggered = vote(answers(models, trigger.apply_uint8(images)), rule=rule)
    answered = clean != REFUSED
    return EnsembleFigures(
        len(models),
        rule,
        balanced_accuracy(clean[answered], labels[answered]) if answered.any() else float("nan"),
        float((~answered).mean()),
        float((triggered == REFUSED).mean()),
        trigger_control(clean, triggered, labels, classes=models[0].head.out_features),
    )
