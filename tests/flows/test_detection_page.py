"""docs/detection.md: filled from zoo.json and filter.json, and readable while one of them is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.detection_page import BLOCKS, PAGE, write_page


def share(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value, "n": 20}


def teacher(*, backdoored: bool, score: float) -> dict[str, Any]:
    return {
        "architecture": "simple_cnn", "attack": "imc" if backdoored else "clean", "side": 10, "poison_rate": 0.01,
        "backdoored": backdoored, "score": score, "verdict": "tampered" if score > 0.5 else "inconclusive",
    }  # fmt: skip


ZOO = {
    "calibrations": {
        "simple_cnn": {
            "images": 600, "clean": 19, "canaries": 8, "power": share(0.71), "false_alarms": share(0.0),
        },
    },
    "summary": {
        "vet": {"auc": share(0.98), "detected": share(0.75), "false_alarms": share(0.05)},
        "warp_peak": {"auc": share(0.58), "detected": share(0.1), "false_alarms": share(0.05)},
    },
    "rows": [teacher(backdoored=kind, score=score) for kind, score in ((True, 0.9), (True, 0.2), (False, 0.1))],
}  # fmt: skip
FILTER = {
    "cells": {"planned": 18, "done": 12},
    "summary": {
        "rows": 12, "steered": 8,
        "deviation": {
            "auroc_mean": 0.97, "auroc_least": 0.91, "rows_at_least_.90": 8, "false_refusals_mean": 0.03,
            "false_refusals_most": 0.05, "triggered_refused_mean": 0.9,
        },
    },
}  # fmt: skip


def test_both_tables_fill_the_page(tmp_path: Path, project: Path) -> None:
    page = tmp_path / "detection.md"
    page.write_text((project / PAGE).read_text())
    (tmp_path / "zoo.json").write_text(json.dumps(ZOO))
    write_page(tmp_path, page)
    text = page.read_text()
    assert "3 teachers (2 backdoored) vetted." in text
    assert "CNN: 19 clean references and 8 canaries from 600 clean images; on these `vet` itself states a" in text
    assert "The verdict on the others: 2 inconclusive." in text
    assert text.index("| 0.20 |") < text.index("| 0.90 |"), "the least suspected comes first"
    assert "The most suspected clean teacher scores 0.10" in text
    assert text.count("Not measured yet.") == 2
    figures = {"value": 0.9, "low": 0.8, "high": 1.0}
    own = {"vet": {"auc": figures, "detected": figures, "false_alarms": figures}}
    clean = {"attack": "clean", "side": 0, "poison_rate": 0.0, "accuracy": 0.99, "control": None, "backdoored": False}
    planted = clean | {"attack": "one_pixel", "poison_rate": 0.1, "control": 0.8, "backdoored": True}
    rows = [planted | {"score": 0.7, "verdict": "tampered"}, clean | {"score": 0.01, "verdict": "no sign"}]
    (tmp_path / "vet_digits.json").write_text(json.dumps({"rows": rows, "planned": 18, "summary": own}))
    (tmp_path / "filter.json").write_text(json.dumps(FILTER))
    write_page(tmp_path, page)
    text = page.read_text()
    assert "| feature deviation | .97 | .91 | 8 of 8 | .03 | .05 | .90 |" in text
    assert "12 of 18 planned teachers done" in text
    assert "2 of 18 teachers: an AUC of .90 [.80, 1.00]; .90 [.80, 1.00] of the backdoored" in text
    assert "| clean | – | 0 | 0.990 | – | .01 | no sign |\n| one pixel | – | 0.1 | 0.990 | .80 | .70 |" in text
    assert all(f"<!-- end {name} -->" in text for name in BLOCKS)
