"""docs/privacy.md: filled from whatever tables are there, with the surfaces drawn beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.private_page import BLOCKS, PAGE, write_page

SPREAD = {"mean": 0.5, "sd": 0.01}


def base(measure: str, mean: float, published: float | None) -> dict[str, Any]:
    return {"optimiser": "sgd", "measure": measure, "mean": mean, "sd": 0.0, "published": published}


TABLES: dict[str, dict[str, Any]] = {
    "table11": {"rows": [base("testing_auc", 0.996, 0.984), base("leakage", 0.53, 0.622)]},
    "table13": {
        "rows": [
            {
                "optimiser": "sgd", "t": 0.5, "utility_loss": {"mean": 0.005, "sd": None}, "privacy_risk": SPREAD,
                "epsilon": {"mean": None, "sd": None}, "chosen": [{"noise": 0.0}, {"noise": 1.0}],
                "published": {"utility_loss": 0.037, "privacy_risk": 0.497},
            }
        ],
        "surfaces": [
            {
                "seed": 7, "optimiser": "sgd", "clip": [1, 2], "noise": [1, 2], "utility": [[0, -0.1], [0, -0.2]],
                "leakage_at_best_clip": [0.52, 0.5],
            }
        ],
    },
    "search_progress": {
        "rows": [
            {
                "set": "HIV", "optimiser": "sgd", "most": 10.0, "trials": 50,
                "best": [
                    {"trial": 2, "utility_change": -0.1, "leakage": 0.5, "objective": 0.01},
                    {"trial": 30, "utility_change": -0.01, "leakage": 0.49, "objective": 0.04},
                ],
            }
        ]
    },
    "leakage": {
        "rows": [
            {"model": "m", "attack": "a", "figure": "f", "answer": "scores", "baseline": 0.5, **SPREAD},
            {"model": "m", "attack": "a", "figure": "f", "answer": "top_1", "baseline": 0.5, **SPREAD},
            {"model": "m", "attack": "inversion", "figure": "g", "answer": "weights", "baseline": None, **SPREAD},
        ]
    },
    "floor_ceiling": {
        "rows": [
            {
                "model": "a head", "epsilon": 4.0, **SPREAD, "floors": [0.2, 0.0], "largest": 0.2, "above_zero": 1,
                "seeds": [1, 2],
            }
        ]
    },
    "private_xray": {
        "rows": [
            {
                "model": "open", "accuracy": SPREAD, "balanced_accuracy": SPREAD, "membership_advantage": SPREAD,
                "attacks": {"features_only": {"membership_advantage": SPREAD}},
            }
        ]
    },
}  # fmt: skip


def test_the_page_is_filled_and_its_words_stay(tmp_path: Path, project: Path) -> None:
    page = tmp_path / "privacy.md"
    page.write_text((project / PAGE).read_text())
    write_page(tmp_path, page)
    assert page.read_text().count("Not measured yet.") == len(BLOCKS)
    for name, table in TABLES.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(table))
    write_page(tmp_path, page)
    text = page.read_text()
    assert "| Synthea-like | SGD | testing AUC | 0.996 ± 0.000 | 0.984 |" in text
    assert "| Synthea-like | SGD | 0.5 | 0.005 | 0.037 | 0.500 ± 0.010 | 0.497 | 0 to 1 | – |" in text
    assert "| a head | 4.00 | .50 ± .01 | .00 | .20 | 1 of 2 |" in text
    assert "| open | 0.500 ± 0.010 |" in text
    assert "| HIV | SGD | 10 | 50 | 30 | 0.010 | 0.040 | -0.010 | 0.490 |" in text
    assert "| m | a | f | 0.500 | 0.500 ± 0.010 | 0.500 ± 0.010 |" in text
    assert "| m | inversion | g | – | 0.500 ± 0.010 |  |" in text
    assert (tmp_path / "figures/search_hiv_sgd.png").exists()
    assert "## Floor and ceiling of ε" in text
    assert (tmp_path / "figures/surfaces_table13_sgd.png").stat().st_size > 5000
