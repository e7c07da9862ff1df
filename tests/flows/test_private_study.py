"""Tables 11 and 13: every row with its seeds and what was published, cells kept, a missing sample one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
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
    few = {name: replace(recipe, grid=2) for name, recipe in study.SYNTHEA.items()}
    monkeypatch.setattr("flows.private_cells.SYNTHEA", few)
    monkeypatch.setattr(study, "CONFIRMED", 2)
    monkeypatch.setattr("tasks.privacy.synthea_like.RECORDS", 400)
    monkeypatch.setattr("flows.private_study.MOST", (5.0,))
    monkeypatch.setattr("flows.private_study.TRIALS", 3)
    n, folder = 300, tmp_path / "sample/synthea"
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
    return folder.parent


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
    assert len(kept) == 4 + 2
    searches = json.loads((tmp_path / "out/search_progress.json").read_text())["rows"]
    assert [(s["optimiser"], s["most"]) for s in searches] == [("sgd", 5.0), ("adam", 5.0)]
    for search in searches:
        values = [b["objective"] for b in search["best"]]
        assert values == sorted(set(values))
        assert all(0.1 <= b["clip"] <= 5 and 0 <= b["noise"] <= 5 for b in search["best"])
    main(asked)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_missing_sample_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path)])
    assert "holds neither synthea/ nor hiv/HIV.csv" in capsys.readouterr().out
    (tmp_path / "synthea").mkdir()
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path)])
    assert "lacks patients.csv" in capsys.readouterr().out


def test_molecules_give_the_tables_of_hiv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three families of molecules as three owners; what the study calls AUC is high for no answer at all."""
    pytest.importorskip("rdkit", reason="needs the extra `molecules`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "CONFIRMED", 2)
    monkeypatch.setattr("flows.private_study.MOST", (5.0,))
    monkeypatch.setattr("flows.private_study.TRIALS", 2)
    monkeypatch.setattr("flows.private_cells.HIV", replace(study.HIV, grid=2, hidden=(8,), epochs=2, batch_size=16))
    families = [("CCCCCCCC", "C"), ("c1ccccc1", "c1ccccc1"), ("NS(=O)(=O)N", "S(=O)(=O)N")]
    rows = [
        (head + tail * (i % 5), int(i % 10 == 0))
        for (head, tail), count in zip(families, (120, 80, 60), strict=True)
        for i in range(count)
    ]
    (tmp_path / "hiv").mkdir()
    pd.DataFrame([*rows, ("no molecule", 0)], columns=["smiles", "HIV_active"]).to_csv(tmp_path / "hiv/HIV.csv")
    main(["--data", str(tmp_path), "--seeds", "1", "--out", str(tmp_path / "out")])
    base, choices = (json.loads((tmp_path / f"out/table{n}.json").read_text()) for n in (12, 14))
    assert base["unreadable"] == 1
    found = {r["measure"]: r for r in base["rows"]}
    assert found["testing_auc"]["published"] == 0.966
    assert found["testing_auc_of_one_answer_for_all"]["mean"] > 0.85
    assert choices["rows"][0]["published"] == {"utility_loss": 0.012, "privacy_risk": 0.488}
    assert "auc_of_the_rare_class" in choices["rows"][0]
