"""Was this teacher tampered with? Every inspection of a model, beside reference models of the same task.

Nothing of an attacker is needed: a small clean set trains the references (`tasks.backdoor.references`), every detector
gives raw scores, and `tasks.backdoor.calibration` says what they mean and how often this would have caught a canary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tasks.backdoor.calibration import Calibration, calibrate
from tasks.backdoor.defences.shadow import Answers, Probe, answers, bank, loudest, novelty
from tasks.backdoor.defences.steering import Steered, steer
from tasks.models.architectures import Classifier
from tasks.models.inference import logits, require_finite

Labelled = tuple[np.ndarray, np.ndarray]
PATCH_FRACTION = 0.09  # the study's 20 of 224 pixels: the side of the largest patch searched
# What decides. On teachers of the real X-rays each of these alone tells clean from backdoored ones (AUC .94 to .99);
# whole-image patterns and warps do not (.55 to .85), since honest models differ in them as much, and are shown only.
COMBINED = ("patch_peak", "patch_spread", "feature_peak", "steering_patch")
BESIDE = 5  # references that a steering pattern is measured on


@dataclass(frozen=True)
class Panel:
    """Clean reference models, the clean images that every model is scored on, and the references' answers to them."""

    images: Labelled
    models: tuple[Classifier, ...]
    answers: tuple[Answers, ...]
    patch_fraction: float
    seed: int

    def probes(self) -> tuple[Probe, ...]:
        _, channels, size, _ = self.images[0].shape
        return bank(channels, size, patch_fraction=self.patch_fraction, seed=self.seed)

    def without(self, i: int) -> Panel:
        """The panel that judges its own member i."""
        rest = [k for k in range(len(self.models)) if k != i]
        return replace(self, models=tuple(self.models[k] for k in rest), answers=tuple(self.answers[k] for k in rest))


@dataclass(frozen=True)
class Inspection:
    """Raw scores (higher: more suspicious), and the patterns behind them with the largest excess first."""

    scores: dict[str, float]
    patches: tuple[Steered, ...]
    overlays: tuple[Steered, ...]
    answers: Answers


def make_panel(
    models: Sequence[Classifier], images: Labelled, *, patch_fraction: float = PATCH_FRACTION, seed: int
) -> Panel:
    """Measure clean references (at least three) on clean uint8 images (n, channels, side, side) with labels (n,)."""
    empty = Panel(images, tuple(models), (), patch_fraction, seed)
    probes = empty.probes()
    return replace(empty, answers=tuple(answers(m, images, probes) for m in models))


def inspect(model: Classifier, panel: Panel, own: Answers | None = None) -> Inspection:
    """Every detector on one model, beside the panel; the model may not be a member of it.

    Args:
        own: the model's answers to the panel's probes, where they are known already.
    """
    require_finite(logits(model, panel.images[0]), source="The model")
    own = own or answers(model, panel.images, panel.probes())
    patches, overlays = steer(
        model, panel.models[:BESIDE], panel.images, patch_fraction=panel.patch_fraction, seed=panel.seed
    )
    scores = {
        **novelty(own, panel.answers),
        "steering_patch": patches[0].excess,
        "steering_overlay": overlays[0].excess,
    }
    return Inspection(scores, tuple(patches), tuple(overlays), own)


def raw_scores(
    model: Classifier,
    images: Labelled,
    *,
    references: Sequence[Classifier] | Panel,
    patch_fraction: float = PATCH_FRACTION,
    seed: int = 0,
) -> dict[str, float]:
    """Every detector's raw score of one model, by name; higher is more suspicious.

    Args:
        images: clean uint8 images (n, channels, side, side) and labels (n,), some of every class.
        references: clean models of the same task, at least three, the model not among them; for many models give the
            `Panel` that `make_panel` makes of them once.
    """
    panel = (
        references
        if isinstance(references, Panel)
        else make_panel(references, images, patch_fraction=patch_fraction, seed=seed)
    )
    return inspect(model, panel).scores


def combine(
    scores: Mapping[str, float], clean: Sequence[Mapping[str, float]], canaries: Sequence[Mapping[str, float]]
) -> tuple[float, str, Calibration]:
    """Score in [0, 1], verdict, and the calibration behind them, from raw scores of models of known truth.

    For cross-fitting: `clean` and `canaries` must not hold the model judged.
    """
    calibration = calibrate(clean, canaries, combined=COMBINED)
    return calibration.score(scores), calibration.verdict(scores), calibration


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
