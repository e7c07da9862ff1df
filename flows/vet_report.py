"""What a vetting says: its judgement as JSON, the steering patterns as pictures, its power in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.backdoor import figures
from tasks.backdoor.attacks.plant import Attack
from tasks.backdoor.calibration import Calibration
from tasks.backdoor.defences.steering import Steered, control_of
from tasks.backdoor.pictures import shown
from tasks.backdoor.vetting import COMBINED, Inspection, Panel, most_telling
from tasks.files import writing
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.inference import accuracy_of

Labelled = tuple[np.ndarray, np.ndarray]


def judgement(
    model: Classifier, spec: ModelSpec, images: Labelled, panel: Panel, found: Inspection, calibration: Calibration
) -> dict[str, Any]:
    """Verdict, score, power and every detector's figures; all but the pictures and the references."""
    deviations = calibration.deviations(found.scores)
    return {
        "architecture": spec.architecture,
        "classes": list(spec.classes),
        "verdict": calibration.verdict(found.scores),
        "score": round(calibration.score(found.scores), 6),
        "statistic": round(calibration.statistic(found.scores), 6),
        "threshold": round(calibration.threshold, 6) if np.isfinite(calibration.threshold) else None,
        "power": calibration.power.as_json(),
        "false_alarms": calibration.alarms.as_json() | {"allowed": calibration.false_alarms},
        "detectors": {
            name: {"raw": round(value, 6), "deviation": round(deviations[name], 6), "decides": name in COMBINED}
            for name, value in found.scores.items()
        },
        "most_telling": _named(most_telling(found, panel), spec),
        "images": {
            "used": len(images[1]),
            "scored_on": len(panel.images[1]),
            "by_class": {c: int((images[1] == i).sum()) for i, c in enumerate(spec.classes)},
        },
        "accuracy_on_them": round(accuracy_of(model, images), 6),
    }


def _named(told: dict[str, Any], spec: ModelSpec) -> dict[str, Any]:
    return told | {"class": spec.classes[told["class"]]}


def pictures(out: Path, model: Classifier, panel: Panel, found: Inspection, spec: ModelSpec) -> list[dict[str, Any]]:
    """For every class the pattern of each kind that steers the teacher furthest beyond the references, as a picture."""
    rows = []
    for kind, patterns in (("patch", found.patches), ("overlay", found.overlays)):
        for c in sorted({p.target_class for p in patterns}):
            best = max((p for p in patterns if p.target_class == c), key=lambda p: p.excess)
            file = out.with_name(f"{out.stem}_{kind}_{c}.png")
            example = panel.images[0][np.flatnonzero(panel.images[1] != c)[0]]
            with writing(file) as temporary:
                Image.fromarray(shown(example, best.trigger)).save(temporary, format="PNG")
            rows.append(_trigger(file, kind, best, control_of(model, best, panel.images), spec))
    return rows


def score_chart(out: Path, calibration: Calibration, found: Inspection) -> str:
    """The scores of the reference models with the teacher's marked, as a picture beside `out`; returns its name."""
    file = out.with_name(f"{out.stem}_scores.png")
    groups = {"clean references": calibration.clean, "canaries": calibration.canaries}
    figures.scores(
        file,
        {name: [calibration.score_of(s) for s in statistics] for name, statistics in groups.items()},
        candidate=calibration.score(found.scores),
        threshold=0.5,
        label="vetting score",
        title="Reference models and the teacher",
    )
    return file.name


def _trigger(file: Path, kind: str, found: Steered, control: float, spec: ModelSpec) -> dict[str, Any]:
    return {
        "picture": file.name,
        "kind": kind,
        "class": spec.classes[found.target_class],
        "place": found.place,
        "side": found.trigger.pattern.shape[-1],
        "opacity": found.trigger.alpha,
        "control": round(control, 6),
        "references_control": round(found.reference_control, 6),
        "shift": round(found.own, 6),
        "largest_shift_of_a_reference": round(found.references, 6),
    }


def canary_row(
    attack: Attack, trained: dict[str, Any], statistic: float | None, calibration: Calibration
) -> dict[str, Any]:
    """A canary as the report shows it; without a statistic it did not take, and counts for nothing."""
    return {
        "attack": attack.name,
        "pattern": attack.pattern,
        "side_fraction": attack.side_fraction,
        "opacity": attack.alpha,
        "place": attack.place,
        "success": round(trained["success"], 6),
        "took": trained["took"],
        "statistic": None if statistic is None else round(statistic, 6),
        "caught": None if statistic is None else statistic > calibration.threshold,
    }


def power_in_words(calibration: Calibration) -> str:
    power, alarms = calibration.power, calibration.alarms
    low, high = power.interval
    return (
        f"power {power.hits} of {power.n} canaries [{low:.2f}, {high:.2f}] at {alarms.hits} of {alarms.n} clean "
        "references accused"
    )
