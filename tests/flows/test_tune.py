"""`python -m flows.privacy tune`: a CSV file in, a page and figures out; what cannot be is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.tune import main


@pytest.fixture
def csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    suggest = "tasks.privacy.tuning.suggestion"
    for name, value in {"SCHEDULES": ((32, 4), (64, 4)), "LEVELS": (1.0, 8.0), "CONFIRMED": 3}.items():
        monkeypatch.setattr(f"{suggest}.{name}", value)
    for name, value in {"REFERENCES": 8, "ATTACKED": 2}.items():
        monkeypatch.setattr(f"tasks.privacy.tuning.risk.{name}", value)
    rng = np.random.default_rng(0)
    age, ward = rng.integers(20, 90, 600), rng.choice(["north", "south"], 600)
    died = rng.random(600) < 1 / (1 + np.exp(-(age - 60) / 8))
    pd.DataFrame({"age": age, "ward": ward, "number": [f"p{i}" for i in range(600)], "died": died}).to_csv(
        tmp_path / "ward <3>.csv", index=False
    )
    return tmp_path / "ward <3>.csv"


def test_a_table_becomes_a_page_and_a_second_run_tries_nothing_again(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "t.html"
    asked = ["--data", str(csv), "--label", "died", "--out", str(out), "--trials", "6", "--hidden", "--epsilon", "4"]
    main(asked)
    said = capsys.readouterr().out
    assert "600 records, 2 features, classes False, True" in said
    assert "name the record: number" in said
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["suggestion"]["epsilon"] <= 4
    page = out.read_text(encoding="utf-8")
    assert "ward &lt;3&gt;.csv" in page
    assert "<3>" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert f"{report['report']['auc']:.3f}" in page
    for attack in ("Loss threshold", "RMIA", "online"):
        assert attack in page
    main(asked)
    again = json.loads(out.with_suffix(".json").read_text())
    assert {k: v for k, v in again.items() if k != "minutes"} == {k: v for k, v in report.items() if k != "minutes"}


def test_a_goal_that_cannot_be_met_is_said_with_the_nearest(csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.html"
    main(
        [
            "--data",
            str(csv),
            "--label",
            "died",
            "--out",
            str(out),
            "--trials",
            "4",
            "--hidden",
            "--utility-loss",
            "1e-9",
        ]
    )
    report = json.loads(out.with_suffix(".json").read_text())
    if report["note"]:
        assert "Nearest to the goal" in out.read_text(encoding="utf-8")
        assert "the least loss found is" in report["note"]
    best = max(p["utility"] for p in report["points"])
    assert bool(report["note"]) == (report["baseline"]["selection_auc"] - best > 1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "outcome"], "has no column 'outcome'"),
        (["--label", "died", "--epsilon", "3", "--trade-off", "0.5"], "--epsilon and --trade-off are two goals"),
        (["--label", "died", "--epsilon", "-1"], "epsilon must lie between 0 and 100"),
        (["--label", "died", "--epsilon", "1e-9"], "is not reached by any noise multiplier"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--data", str(csv), "--out", str(tmp_path / "t.html"), "--trials", "2", *options])
    assert error.value.code == 1
    assert said in capsys.readouterr().out.replace("\n", " ")
    assert not (tmp_path / "t.html").exists()
