"""The run-time filters as the gate reports them: calibrated on the drill's canaries, set on clean images, measured on
others. STRIP in detail, with its entropies, and every filter beside it with the one to use (`input_filters`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.backdoor.defences.strip import ALPHAS, auroc, calibrate_alpha, entropies, refused, set_threshold
from tasks.backdoor.input_filters import Settings, compare_filters
from tasks.backdoor.net import spread
from tasks.backdoor.search import Labelled
from tasks.backdoor.triggers import Trigger
from tasks.models.architectures import Classifier

CALIBRATION_IMAGES = 24
CALIBRATION_BLENDS = 16
VAL_IMAGES = 192  # to set the threshold on
TEST_IMAGES = 96
TRIGGERED_IMAGES = 48
LITTLE = 0.01
LITTLE_BLENDING = (
    "Blending tells nothing here: at the best weight the filter reads little more than how sure the model is of the "
    "input itself, as the study found on X-rays."
)
UNCALIBRATED = 0.5  # the published blend weight, where no canary survived to calibrate on


@dataclass(frozen=True)
class FilterReport:
    """STRIP's figures for the report, the entropies behind its histograms (by model, then by kind of input), and all
    filters side by side with the chosen one."""

    figures: dict[str, Any]
    comparison: dict[str, Any]
    entropies: dict[str, dict[str, np.ndarray]]
    alpha: float
    threshold: float


def measure_filter(
    candidate: Classifier,
    canaries: Mapping[str, tuple[Classifier, Trigger]],
    triggers: Mapping[str, Trigger],
    val: Labelled,
    test: Labelled,
    *,
    blends: int,
    false_refusals: float,
    patch_fraction: float,
    seed: int,
) -> FilterReport:
    """Calibrate on `val`, measure on `test`.

    Args:
        canaries: students in which a planted trigger still works, with that trigger.
        triggers: the drill's triggers, tried on the candidate by name.
        false_refusals: share of clean validation images that the candidate's filter may refuse.
        patch_fraction: side of the largest patch that the policy reckons with, as a fraction of the image's.
    """
    few = val[0][spread(len(val[0]), CALIBRATION_IMAGES)]
    drills = [(model, few, trigger.apply_uint8(few)) for model, trigger in canaries.values()]
    means: dict[float, float] = {}
    alpha = UNCALIBRATED
    if drills:
        alpha, means = calibrate_alpha(drills, val[0], alphas=ALPHAS, blends=CALIBRATION_BLENDS, seed=seed)

    def entropy(model: Classifier, images: np.ndarray, shift: int) -> np.ndarray:
        return entropies(model, images, val[0], alpha=alpha, blends=blends, seed=seed + shift)

    some = val[0][spread(len(val[0]), VAL_IMAGES)]
    clean = test[0][spread(len(test[0]), TEST_IMAGES)]
    to_trigger = test[0][spread(len(test[0]), TRIGGERED_IMAGES)]
    threshold = set_threshold(entropy(candidate, some, 1), false_refusals=false_refusals)
    own = {"clean": entropy(candidate, clean, 2)}
    seen = {"candidate": own}
    report: dict[str, Any] = {
        "alpha": alpha,
        "calibrated": bool(drills),
        "note": LITTLE_BLENDING if alpha <= LITTLE else "",
        "mean_auroc_by_alpha": {f"{a:g}": round(v, 6) for a, v in means.items()},
        "blends": blends,
        "threshold": round(threshold, 6),
        "wanted_false_refusals": false_refusals,
        "false_refusals": refused(own["clean"], threshold),
        "canaries": {},
        "candidate": {},
    }
    for name, (model, trigger) in canaries.items():
        triggered = entropy(model, trigger.apply_uint8(to_trigger), 3)
        seen[name] = {"clean": entropy(model, to_trigger, 4), "triggered": triggered}
        report["canaries"][name] = _area(seen[name]["clean"], seen[name]["triggered"], seed)
    for name, trigger in triggers.items():
        triggered = entropy(candidate, trigger.apply_uint8(to_trigger), 5)
        own[f"with the trigger of {name}"] = triggered
        area = _area(own["clean"], triggered, seed)
        report["candidate"][name] = area | {"refused": refused(triggered, threshold)}
    comparison = compare_filters(
        candidate,
        canaries,
        triggers,
        val[0],
        clean,
        to_trigger,
        settings=Settings(alpha, blends, patch_fraction, seed),
        false_refusals=false_refusals,
    )
    return FilterReport(report, comparison, seen, alpha, threshold)


def _area(clean: np.ndarray, triggered: np.ndarray, seed: int) -> dict[str, Any]:
    value, (low, high) = auroc(clean, triggered, seed=seed)
    return {
        "auroc": {
            "value": round(value, 6),
            "low": round(low, 6),
            "high": round(high, 6),
            "n": len(clean) + len(triggered),
        }
    }
