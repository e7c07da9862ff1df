"""Guards' states and thresholds for one model, from clean images alone, as JSON: `guards.json` of the evidence.

Every guard is calibrated; which of them answer to requests (`on`) is signed along with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float
from tasks.serving.guards import backdoor, disagreement, distribution
from tasks.serving.guards.pipeline import Guard, Kind, see
from tasks.stats import threshold_of

KINDS: dict[str, Kind] = {
    "backdoor": backdoor.KIND,
    "distribution": distribution.KIND,
    "disagreement": disagreement.KIND,
}
LEAST = 20  # clean images: half to learn from, half to set thresholds on


class _Calibrated(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float
    false_refusals: float
    images: int  # that the threshold was set on
    state: dict[str, Any]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    on: tuple[str, ...]
    guards: dict[str, _Calibrated]


def calibrate(
    model: Classifier, images: np.ndarray, *, on: tuple[str, ...], false_refusals: Mapping[str, float], seed: int
) -> dict[str, Any]:
    """What `load_guards` reads back, JSON-ready.

    Args:
        images: clean uint8 images (n, channels, side, side) that the model was not trained on.
        on: guards that may refuse.
        false_refusals: for each guard the share of clean inputs that it may refuse; `threshold_of` keeps it.

    Raises:
        GatehouseError: there are too few images.
    """
    if len(images) < LEAST:
        raise GatehouseError(f"Guards need at least {LEAST} validation images but got {len(images)}; enlarge the data.")
    order = np.random.default_rng(seed).permutation(len(images))
    learned, held = (see(model, as_float(images[np.sort(part)]).numpy()) for part in np.array_split(order, 2))
    out = {}
    for name, kind in KINDS.items():
        state = kind.learn(learned)
        scores = kind.scorer(model, state)(held)
        threshold = threshold_of(scores, false_refusals[name])
        out[name] = {
            "threshold": threshold,
            "false_refusals": false_refusals[name],
            "images": len(scores),
            "state": state,
        }
    return {"on": list(on), "guards": out}


def load_guards(content: bytes, model: Classifier, *, source: str) -> tuple[Guard, ...]:
    """The guards that are on; raises GatehouseError where the file is none."""
    try:
        file = _File.model_validate(json.loads(content))
        return tuple(
            Guard(name, KINDS[name].scorer(model, file.guards[name].state), file.guards[name].threshold)
            for name in file.on
        )
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise GatehouseError(f"{source} holds no guards that can be used ({error}); promote again.") from error
