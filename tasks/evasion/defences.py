"""The defences that are measured side by side, each with an attacker who knows it (study, Figure 38 and section 8.4.1).

The order is the study's: simplest first, earlier in the pipeline first. A defence is a recipe, a freeze policy and an
input guard: all three are keys of params.yaml, so that what is measured here is what a user can choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.models.guards import GuardName
from tasks.params import FreezePolicy, Training

AGAINST_PATCHES = ("patch_probability", "patch_adversarial", "overlay_probability")


@dataclass(frozen=True)
class Defence:
    """Changes of the undefended recipe, what is trainable, and what is done to images before the first layer."""

    name: str
    title: str
    trainable: FreezePolicy = "all"
    changes: tuple[tuple[str, Any], ...] = ()
    guard: GuardName = "none"

    def recipe(self, student: Training) -> Training:
        """The student's own recipe without its defences, changed as this one asks."""
        return student.undefended().model_copy(update=dict(self.changes))


def defences(student: Training) -> tuple[Defence, ...]:
    """All of them; `student` is the recipe of params.yaml, whose patches and overlays are one of the rows."""
    patches = tuple((key, getattr(student, key)) for key in AGAINST_PATCHES)

    def adversarial(of_255: int, share: float) -> tuple[tuple[str, Any], ...]:
        return (("adversarial_budget", of_255 / 255), ("adversarial_share", share))

    return (
        Defence("frozen", "None: all features frozen", "none"),
        Defence("last", "None: last block trained", "last"),
        Defence("all", "None: all features trained"),
        Defence("low_pass", "Low pass", guard="low_pass"),
        Defence("jpeg", "JPEG", guard="jpeg"),
        Defence("dropout", "Input dropout with a vote", guard="dropout"),
        Defence("patches", "Patches and overlays, as against backdoors", changes=patches),
        Defence("neuron_distance", "Neuron distance from the teacher", changes=(("neuron_distance", 5.0),)),
        Defence("distilled", "Fresh weights, features distilled", changes=(("fresh", True), ("distillation", 5.0))),
        Defence("adversarial_2", "Adversarial training, 2/255, half of the images", changes=adversarial(2, 0.5)),
        Defence("adversarial_4", "Adversarial training, 4/255, half of the images", changes=adversarial(4, 0.5)),
        Defence("adversarial_4_whole", "Adversarial training, 4/255, all images", changes=adversarial(4, 1.0)),
        Defence("both", "Patches, overlays and adversarial training", changes=patches + adversarial(4, 0.5)),
    )
