"""The Synthea-like set: its rates are the tables', it repeats itself by seed, and it looks like the study's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from tasks.errors import GatehouseError
from tasks.privacy.synthea_like import RECORDS, Sources, as_table, draw, read_sources

PUBLISHED = Path(__file__).parents[4] / "shared/data/synthea"


@pytest.fixture
def sources() -> Sources:
    """Old men all have diabetes and get critical, and half of the critical die; nobody else has or gets anything."""
    n = 200
    old = np.arange(n) % 2 == 0
    patients = pd.DataFrame(
        {
            "Id": [f"p{i}" for i in range(n)],
            "BIRTHDATE": np.where(old, "1940-01-01", "1990-01-01"),
            "GENDER": np.where(np.arange(n) % 4 < 2, "M", "F"),
            "RACE": np.array(["white", "asian"])[np.arange(n) // 4 % 2],
            "ETHNICITY": "nonhispanic",
            "MARITAL": np.where(np.arange(n) % 3 == 0, "M", "S"),
            "HEALTHCARE_EXPENSES": 1000.0,
            "HEALTHCARE_COVERAGE": np.arange(n) * 10.0,
        }
    )
    ill = patients.loc[old & (patients["GENDER"] == "M"), "Id"]
    conditions = pd.DataFrame({"PATIENT": [*ill, *ill], "DESCRIPTION": "Diabetes"})  # twice: a patient counts once
    levels = ["Negative Severity", "General Severity", "Severe Severity", "Critical Severity"]
    severity = pd.DataFrame(
        [
            ["50-110", "high", 0, 0, 0, 1],
            ["50-110", "low", 1, 0, 0, 0],
            ["0-49", "high", 1, 0, 0, 0],
            ["0-49", "low", 1, 0, 0, 0],
        ],
        columns=["age", "covid19_risk", *levels],
    )
    survival = pd.DataFrame({"covid19_severity": ["critical", "negative"], "Survival: Non-Survivor": [0.5, 0.0]})
    return Sources(patients, conditions, severity, survival)


def test_rates_are_those_of_the_tables(sources: Sources) -> None:
    drawn = draw(sources, records=4000, seed=1)
    old_men = (drawn["age"] >= 50) & ~drawn["female"]
    assert (drawn["Diabetes"] == old_men).all()
    assert not drawn.loc[~old_men, ["died", "pneumonia", "fever", "acidosis"]].to_numpy().any()
    n = int(old_men.sum())
    assert abs(drawn.loc[old_men, "died"].mean() - 0.5) < 4 * (0.25 / n) ** 0.5
    assert drawn.loc[old_men, "pneumonia"].all()
    dead = old_men & drawn["died"]
    assert abs(drawn.loc[dead, "coagulopathy"].mean() - 0.5) < 4 * (0.25 / dead.sum()) ** 0.5
    assert set(drawn["cluster"]) == {0, 1}
    assert (drawn["cluster"] == 0).sum() >= (drawn["cluster"] == 1).sum()


def test_the_same_seed_draws_the_same_patients(sources: Sources) -> None:
    pd.testing.assert_frame_equal(draw(sources, records=50, seed=3), draw(sources, records=50, seed=3))
    assert not draw(sources, records=50, seed=3).equals(draw(sources, records=50, seed=4))


def test_a_folder_without_the_tables_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match=r"lacks patients.csv, conditions.csv, lookup/covid"):
        read_sources(tmp_path)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published sample of Synthea is not beside the project")
def test_the_published_sample_gives_a_set_like_the_studys() -> None:
    drawn = draw(read_sources(PUBLISHED), seed=7)
    assert len(drawn) == RECORDS
    assert 0.4 < (drawn["cluster"] == 1).mean() <= 0.5  # the study: 1 036 of 2 420
    table = as_table(drawn)
    auc = cross_val_score(LogisticRegression(max_iter=500), table.x, table.y, scoring="roc_auc").mean()
    assert 0.98 < auc < 0.9995  # the study's network: .984 to .995
