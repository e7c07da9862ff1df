"""STRIP as the gate reports it: calibrated on the drill's canaries, set on clean images, measured on others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.backdoor.defences.strip import ALPHAS, auroc, calibrate_alpha, entropies, refused, set_threshold
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
    """Figures for the report, and the entropies behind the histograms: by model, then by kind of input."""

    figures: dict[str, Any]
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
    seed: int,
) -> FilterReport:
    """Calibrate on `val`, measure on `test`.

    Args:
        canaries: students in which a planted trigger still works, with that trigger.
        triggers: the drill's triggers, tried on the candidate by name.
        false_refusals: share of clean validation images that the candidate's filter may refuse.
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
    return FilterReport(report, seen, alpha, threshold)


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
