"""Was this teacher tampered with? Every inspection of a model, beside reference models of the same task.

Nothing of an attacker is needed: a small clean set trains the references (`tasks.backdoor.references`), every detector
gives raw scores, and `tasks.backdoor.calibration` says what they mean and how often this would have caught a canary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from tasks.backdoor.defences.shadow import Answers, Probe, answers, bank, loudest, novelty
from tasks.backdoor.defences.steering import Steered, excesses, standing_out, steer
from tasks.models.architectures import Classifier
from tasks.models.inference import logits, require_finite

Labelled = tuple[np.ndarray, np.ndarray]
T = TypeVar("T")
PATCH_FRACTION = 0.09  # the study's 20 of 224 pixels: the side of the largest patch searched
# What decides. Beside references trained on 600 of the real X-rays, AUC on CNN teachers with triggers of five attacks:
# steering_patch .99, feature_peak .96, patch_peak and patch_spread .92, which say the same again; whole-image patterns
# and warps .58 to .69, since honest models differ in them as much. Those are shown only.
COMBINED = ("feature_peak", "steering_patch")
BESIDE = 5  # references that a steering pattern is measured on


def beside(members: Sequence[T], i: int | None = None) -> tuple[T, ...]:
    """The members that a steering pattern is measured on: the BESIDE that follow member i in a ring, or the first."""
    if i is None:
        return tuple(members[:BESIDE])
    return tuple(members[(i + k) % len(members)] for k in range(1, min(BESIDE, len(members) - 1) + 1))


@dataclass(frozen=True)
class Panel:
    """Clean reference models, the clean images that every model is scored on, and what was measured of the references.

    `steering` holds each reference's excesses beside others (`steering.excesses`).
    """

    images: Labelled
    models: tuple[Classifier, ...]
    answers: tuple[Answers, ...]
    steering: tuple[np.ndarray, ...]
    patch_fraction: float
    seed: int

    def probes(self) -> tuple[Probe, ...]:
        _, channels, size, _ = self.images[0].shape
        return bank(channels, size, patch_fraction=self.patch_fraction, seed=self.seed)

    def without(self, i: int) -> Panel:
        """The panel that judges its own member i."""
        rest = [k for k in range(len(self.models)) if k != i]
        return replace(
            self,
            models=tuple(self.models[k] for k in rest),
            answers=tuple(self.answers[k] for k in rest),
            steering=tuple(self.steering[k] for k in rest),
        )

    def beside(self, i: int | None = None) -> tuple[Classifier, ...]:
        """The references that member i, or a model that is none, is searched beside."""
        return beside(self.models, i)


@dataclass(frozen=True)
class Inspection:
    """Raw scores (higher: more suspicious), and the patterns behind them."""

    scores: dict[str, float]
    patches: tuple[Steered, ...]
    overlays: tuple[Steered, ...]
    answers: Answers


def make_panel(
    models: Sequence[Classifier], images: Labelled, *, patch_fraction: float = PATCH_FRACTION, seed: int
) -> Panel:
    """Measure clean references (at least three) on clean uint8 images (n, channels, side, side) with labels (n,)."""
    panel = Panel(images, tuple(models), (), (), patch_fraction, seed)
    probes = panel.probes()
    known = tuple(answers(m, images, probes) for m in models)
    tables = tuple(excesses(search(m, panel, panel.beside(i))[0]) for i, m in enumerate(models))
    return replace(panel, answers=known, steering=tables)


def search(model: Classifier, panel: Panel, beside: Sequence[Classifier]) -> tuple[list[Steered], list[Steered]]:
    """The steering search on one model beside some of the panel's, the model not among them."""
    return steer(model, beside, panel.images, patch_fraction=panel.patch_fraction, seed=panel.seed)


def scores_of(own: Answers, patches: np.ndarray, overlays: np.ndarray, panel: Panel) -> dict[str, float]:
    """Raw scores from what was measured of a model: its answers, and its excesses in both kinds of patterns."""
    return {
        **novelty(own, panel.answers),
        "steering_patch": standing_out(patches, panel.steering),
        "steering_overlay": float(overlays.max()),
    }


def inspect(model: Classifier, panel: Panel) -> Inspection:
    """Every detector on one model, beside the panel; the model may not be a member of it."""
    require_finite(logits(model, panel.images[0]), source="The model")
    own = answers(model, panel.images, panel.probes())
    patches, overlays = search(model, panel, panel.beside())
    scores = scores_of(own, excesses(patches), excesses(overlays), panel)
    return Inspection(scores, tuple(patches), tuple(overlays), own)


def most_telling(found: Inspection, panel: Panel) -> dict[str, Any]:
    """The probe that the model answers most unlike the references, and what it does, for a report."""
    probe, raised = loudest(found.answers, panel.answers)
    others = [a.shifts[probe, raised] for a in panel.answers]
    return {
        "family": found.answers.families[probe],
        "probe": found.answers.names[probe],
        "class": raised,
        "shift": round(float(found.answers.shifts[probe, raised]), 6),
        "references_mean": round(float(np.mean(others)), 6),
        "references_sd": round(float(np.std(others, ddof=1)), 6),
    }
