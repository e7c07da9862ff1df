"""Detectors over the zoo: areas against scikit-learn's own meaning, rates counted, thresholds from the other half."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.backdoor.zoo.detection import COMBINED, summary


def rows(truth: list[bool], values: list[float], accused: list[bool]) -> list[dict[str, Any]]:
    return [
        {"backdoored": t, "score": v, "verdict": "tampered" if a else "no sign", "detectors": {"one": v}}
        for t, v, a in zip(truth, values, accused, strict=True)
    ]


def test_a_detector_that_tells_all_apart_detects_all() -> None:
    truth = [True, False] * 12
    values = [5.0 + i if t else -i / 10 for i, t in enumerate(truth)]
    found = summary(rows(truth, values, truth), seed=1)
    for name in (COMBINED, "one"):
        assert found[name]["auc"]["value"] == 1.0
        least = 0.025 ** (1 / 12)  # Clopper and Pearson, twelve of twelve
        assert found[name]["detected"] == pytest.approx({"value": 1.0, "low": least, "high": 1.0, "n": 12}, abs=1e-5)
    assert found[COMBINED]["false_alarms"]["value"] == 0.0


def test_noise_tells_nothing_and_rates_are_of_the_verdict() -> None:
    rng = np.random.default_rng(3)
    truth = [True, False] * 200
    values = list(rng.normal(size=400))
    accused = [i % 4 == 0 for i in range(400)]  # half of the backdoored, none of the clean
    found = summary(rows(truth, values, accused), seed=1)
    assert found["one"]["auc"]["value"] == pytest.approx(0.5, abs=0.09)
    assert found["one"]["detected"]["value"] < 0.15
    assert found["one"]["false_alarms"]["value"] < 0.12
    assert (found[COMBINED]["detected"]["value"], found[COMBINED]["false_alarms"]["value"]) == (0.5, 0.0)


def test_the_threshold_of_a_half_comes_from_the_other() -> None:
    # The clean teachers of one half lie high: their threshold hides the other half's backdoors, not their own.
    truth = [True, True, False, False]
    values = [3.0, 3.0, 1.0, 9.0]
    found = summary(rows(truth, values, [False] * 4), seed=1)
    assert found["one"]["detected"]["value"] == 0.5
    assert found["one"]["false_alarms"]["value"] == 0.5
