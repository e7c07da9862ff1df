"""The run-time filters beside each other: each scores inputs, high is suspicious, and knows nothing of any trigger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.backdoor.defences.deviation import deviation, fit_clean
from tasks.backdoor.defences.occlusion import occlusion_scores
from tasks.backdoor.defences.scaling import calibrate_scale, consistency
from tasks.backdoor.defences.strip import auroc, entropies
from tasks.backdoor.net import spread
from tasks.backdoor.triggers import Trigger, pixels
from tasks.models.architectures import Classifier
from tasks.models.inference import logits
from tasks.stats import clopper_pearson, threshold_of

Labelled = tuple[np.ndarray, np.ndarray]
Scores = Callable[[np.ndarray], np.ndarray]  # uint8 images (n, channels, side, side) -> suspicion (n,)
REFERENCE = 1000  # clean images that a filter learns from, at most
HELD = 192  # clean images that the threshold is set on, at most; none of them is among the reference
CALIBRATE = 200  # images that the amplification is calibrated on
COVERS = 2  # side of a cover in units of the largest patch that the policy reckons with
CHEAPEST = ("deviation", "scaling", "strip", "occlusion")  # passes of the network an input: 1, 5, 32, over 100
RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # where ROC curves are noted
TIE = 0.01  # of AUROC, within which the cheaper filter is chosen


@dataclass(frozen=True)
class Settings:
    """What the filters take: STRIP's calibrated blend weight and blends, and the largest patch reckoned with."""

    alpha: float
    blends: int
    patch_fraction: float
    seed: int


def split_clean(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(reference, held): disjoint clean images, to learn a filter from and to set its threshold on."""
    held = spread(len(images), min(HELD, len(images) // 2))
    rest = np.setdiff1d(np.arange(len(images)), held)
    return images[rest[spread(len(rest), REFERENCE)]], images[held]


def make_filters(model: Classifier, reference: np.ndarray, settings: Settings) -> dict[str, Scores]:
    """Every filter for one model, calibrated on clean uint8 images alone, in the order of their cost."""
    clean = fit_clean(model, reference)
    scale = calibrate_scale(model, reference[spread(len(reference), CALIBRATE)])
    side = min(COVERS * pixels(settings.patch_fraction, reference.shape[-1]), reference.shape[-1] // 2)

    def strip(images: np.ndarray) -> np.ndarray:
        return -entropies(
            model, images, reference, alpha=settings.alpha, blends=settings.blends, seed=settings.seed
        )  # fmt: skip

    return {
        "deviation": lambda images: deviation(model, images, clean),
        "scaling": lambda images: consistency(model, images, scale),
        "strip": strip,
        "occlusion": lambda images: occlusion_scores(model, images, side=side),
    }


def compare_filters(
    candidate: Classifier,
    canaries: Mapping[str, tuple[Classifier, Trigger]],
    triggers: Mapping[str, Trigger],
    val: np.ndarray,
    test: np.ndarray,
    to_trigger: np.ndarray,
    *,
    settings: Settings,
    false_refusals: float,
) -> dict[str, Any]:
    """Every filter's figures on canary students and on the candidate, and the one chosen; JSON-ready.

    Chosen is the filter of best mean AUROC over the canaries, the cheaper one within TIE of it; the threshold
    refuses, with confidence, no more than the wanted share of clean inputs (`threshold_of`).

    Args:
        canaries: students in which a planted trigger still works, with that trigger.
        triggers: tried on the candidate by name.
        val: clean uint8 images to learn from and to set thresholds on.
        test, to_trigger: clean uint8 images to measure on; the latter with and without triggers.
    """
    reference, held = split_clean(val)
    table: dict[str, dict[str, Any]] = {name: {"canaries": {}, "candidate": {}} for name in CHEAPEST}
    for source, (model, trigger) in canaries.items():
        for name, score in make_filters(model, reference, settings).items():
            table[name]["canaries"][source] = tell_apart(model, score, to_trigger, trigger, seed=settings.seed)
    for name, score in make_filters(candidate, reference, settings).items():
        threshold, before = threshold_of(score(held), false_refusals), score(to_trigger)
        table[name]["threshold"] = round(threshold, 6)
        table[name]["false_refusals"] = share_refused(score(test), threshold)
        for source, trigger in triggers.items():
            table[name]["candidate"][source] = tell_apart(
                candidate, score, to_trigger, trigger, seed=settings.seed, threshold=threshold, before=before
            )
    for row in table.values():
        areas = [figure["auroc"]["value"] for figure in row["canaries"].values()]
        row["mean_auroc"] = round(float(np.mean(areas)), 6) if areas else None
    return {"chosen": choose(table), "calibrated": bool(canaries), "filters": table}


def choose(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The cheapest filter whose mean AUROC lies within TIE of the best; without canaries the cheapest of all."""
    areas = {name: table[name]["mean_auroc"] or 0.0 for name in CHEAPEST}
    return next(name for name in CHEAPEST if areas[name] >= max(areas.values()) - TIE)


def tell_apart(
    model: Classifier,
    score: Scores,
    images: np.ndarray,
    trigger: Trigger,
    *,
    seed: int,
    threshold: float | None = None,
    before: np.ndarray | None = None,
) -> dict[str, Any]:
    """AUROC of images with the trigger against the same without, over all of them, and over those whose answer moves.

    With `threshold`, also the shares of triggered images, all and moved, that the filter refuses. `before` are the
    scores of the images without the trigger, where they are known.
    """
    triggered = trigger.apply_uint8(images)
    moved = (logits(model, triggered).argmax(1) != logits(model, images).argmax(1)).numpy()
    clean, after = score(images) if before is None else before, score(triggered)
    out = {
        "auroc": area(clean, after, seed=seed),
        "auroc_moved": None,
        "moved": int(moved.sum()),
        "roc": roc_points(clean, after),
    }
    if moved.any():
        out["auroc_moved"] = area(clean, after[moved], seed=seed)
    if threshold is not None:
        out["refused"] = share_refused(after, threshold)
        out["refused_moved"] = share_refused(after[moved], threshold) if moved.any() else None
    return out


def area(clean: np.ndarray, triggered: np.ndarray, *, seed: int) -> dict[str, float]:
    """AUROC of "a high score means triggered", with a bootstrap interval."""
    value, (low, high) = auroc(-clean, -triggered, seed=seed)
    return {
        "value": round(value, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "n": len(clean) + len(triggered),
    }


def roc_points(clean: np.ndarray, triggered: np.ndarray) -> list[list[float]]:
    """[share of clean inputs refused, share of triggered ones] at the thresholds of RATES, from (0, ·) to (1, 1)."""
    thresholds = [np.quantile(clean, 1 - rate, method="higher") for rate in RATES]
    points = [[float((clean > t).mean()), float((triggered > t).mean())] for t in thresholds]
    return [[round(a, 6), round(b, 6)] for a, b in [*points, [1.0, 1.0]]]


def share_refused(scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """Share of inputs whose score lies above the threshold, with its interval."""
    hits = int((scores > threshold).sum())
    low, high = clopper_pearson(hits, len(scores))
    return {
        "value": round(hits / max(len(scores), 1), 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "n": len(scores),
    }
