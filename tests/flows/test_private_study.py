"""Tables 11 and 13: every row with its seeds and what was published, cells kept, a missing sample one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.private_study import main
from tasks.privacy import study


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sample in which the old are ill and half of the ill die, and a grid of four."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "CLIPS", np.array([0.5, 2.0]))
    monkeypatch.setattr(study, "NOISES", np.array([0.5, 8.0]))
    monkeypatch.setattr(study, "CONFIRMED", 2)
    monkeypatch.setattr("tasks.privacy.synthea_like.RECORDS", 400)
    n, folder = 300, tmp_path / "sample"
    (folder / "lookup").mkdir(parents=True)
    rows = np.arange(n)
    pd.DataFrame(
        {
            "Id": [f"p{i}" for i in rows], "BIRTHDATE": np.where(rows % 2 == 0, "1945-05-05", "1995-05-05"),
            "GENDER": np.where(rows % 4 < 2, "M", "F"), "RACE": "white", "ETHNICITY": "nonhispanic",
            "MARITAL": np.where(rows % 3 == 0, "M", "S"), "HEALTHCARE_EXPENSES": 1000.0 + rows,
            "HEALTHCARE_COVERAGE": 10.0 * rows,
        }
    ).to_csv(folder / "patients.csv", index=False)  # fmt: skip
    ill = [f"p{i}" for i in rows if i % 2 == 0]
    pd.DataFrame({"PATIENT": ill, "DESCRIPTION": "Diabetes"}).to_csv(folder / "conditions.csv", index=False)
    levels = "age,covid19_risk,Negative Severity,General Severity,Severe Severity,Critical Severity\n"
    (folder / "lookup/covid-19-severity-outcomes.csv").write_text(levels + "0-110,high,0,0,0,1\n0-110,low,1,0,0,0\n")
    (folder / "lookup/covid-19-survival-outcomes.csv").write_text(
        "age,covid19_severity,Survival: Survivor,Survival: Non-Survivor\n0-110,critical,.5,.5\n0-110,negative,1,0\n"
    )
    return folder


def test_tables_are_whole_and_cells_are_kept(sample: Path, tmp_path: Path) -> None:
    asked = ["--data", str(sample), "--seeds", "2", "--out", str(tmp_path / "out")]
    main(asked)
    base, choices = (json.loads((tmp_path / f"out/table{n}.json").read_text()) for n in (11, 13))
    assert "not the study's own draw" in base["data"]
    rows = {(r["optimiser"], r["measure"]): r for r in base["rows"]}
    assert rows["sgd", "testing_auc"]["published"] == 0.984
    assert rows["sgd", "testing_auc"]["mean"] > 0.8
    assert rows["adam", "leakage_without_the_model"]["mean"] > 0.8  # the owners' records differ by themselves
    assert [r["t"] for r in choices["rows"]] == [0.25, 0.5, 0.75, "loss at most 0.02"] * 2
    for row in choices["rows"]:
        assert len(row["chosen"]) == len(row["seeds"]) == 2
        assert 0 <= row["privacy_risk"]["mean"] <= 1
    assert choices["rows"][1]["published"] == {"utility_loss": 0.037, "privacy_risk": 0.497}
    assert {len(s["utility"]) for s in choices["surfaces"]} == {2}
    kept = {p: p.stat().st_mtime_ns for p in Path(".gatehouse/private/cells").glob("*.json")}
    assert len(kept) == 4
    main(asked)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_missing_sample_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path)])
    assert "lacks patients.csv" in capsys.readouterr().out
