"""A set like the study's Synthea draw (6.2.1), which is not public: who survives COVID-19, drawn anew by a seed.

Patients are resampled from the generator's published sample, their conditions drawn at that sample's frequencies by
sex and age, severity and survival by the generator's own tables. Complications follow Zhou 2020 (Lancet 395, Table 2),
whose rates the generator uses too; those that are near death itself (sepsis, septic shock, respiratory failure, ARDS)
are left out, since with them nothing is left to predict. It is like the study's set, and it is not that set: say so
wherever it is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.preprocessing import MinMaxScaler

from tasks.errors import GatehouseError
from tasks.privacy.tabular import Table, encode

RECORDS = 2420  # 1 088 to train on, 296 to test on, 1 036 unseen: the study's sizes
YEAR = 2020
AGES = (0, 20, 50, 111)
COMMON = 40  # conditions that describe a patient, the most frequent ones
RISKS = ("Diabetes", "Hypertension", "Coronary Heart Disease", "Chronic congestive heart failure (disorder)", "Stroke")
# Complication -> rate among those who die, and among severe or critical survivors.
COMPLICATIONS = {
    "heart failure": (0.52, 0.12), "coagulopathy": (0.50, 0.07), "acute cardiac injury": (0.59, 0.01),
    "acute kidney injury": (0.50, 0.01), "secondary infection": (0.50, 0.01), "hypoproteinaemia": (0.37, 0.02),
    "acidosis": (0.30, 0.01),
}  # fmt: skip
SYMPTOMS = {"fever": 0.88, "cough": 0.68, "loss of taste": 0.5, "fatigue": 0.38, "sputum": 0.33, "dyspnoea": 0.19}


@dataclass(frozen=True)
class Sources:
    """The published tables, as they unpack."""

    patients: pd.DataFrame
    conditions: pd.DataFrame
    severity: pd.DataFrame
    survival: pd.DataFrame


def read_sources(folder: Path) -> Sources:
    """`patients.csv`, `conditions.csv` and `lookup/` of a folder; GatehouseError where one is missing."""
    files = (
        "patients.csv",
        "conditions.csv",
        "lookup/covid-19-severity-outcomes.csv",
        "lookup/covid-19-survival-outcomes.csv",
    )
    if missing := [f for f in files if not (folder / f).exists()]:
        raise GatehouseError(
            f"{folder} lacks {', '.join(missing)}; point at a sample of Synthea with its lookup tables."
        )
    return Sources(*(pd.read_csv(folder / f) for f in files))


def draw(sources: Sources, *, records: int = 0, seed: int) -> pd.DataFrame:
    """One row a patient: demographics, conditions, symptoms, complications, `died`, and `cluster` (0 or 1).

    The cluster is k-means' (k = 2) on demographic and economic columns, as the study splits its owner's records from
    those of somebody else; 0 is the larger one.

    Args:
        records: to draw, 0 for as many as the study has.
    """
    records = records or RECORDS
    rng = np.random.default_rng(seed)
    own = sources.patients.iloc[rng.integers(0, len(sources.patients), records)].reset_index(drop=True)
    born = own["BIRTHDATE"].str[:4].astype(int).to_numpy()
    age = np.clip(YEAR - born + rng.integers(-3, 4, records), 0, 110)
    out = pd.DataFrame(
        {
            "age": age,
            "female": own["GENDER"] == "F",
            "race": own["RACE"],
            "hispanic": own["ETHNICITY"] == "hispanic",
            "married": own["MARITAL"] == "M",
            "expenses": own["HEALTHCARE_EXPENSES"] * rng.lognormal(0, 0.1, records),
            "coverage": own["HEALTHCARE_COVERAGE"] * rng.lognormal(0, 0.1, records),
        }
    )
    rates = _condition_rates(sources)
    group = _group(out["female"].to_numpy(), age)
    had = {name: rng.random(records) < by_group[group] for name, by_group in rates.items()}
    at_risk = np.any([had[name] for name in RISKS if name in had], axis=0)
    severity = _severity(sources.severity, age, at_risk, rng)
    died = rng.random(records) < _death_rate(sources.survival, severity)
    ill = severity != "negative"
    for name, rate in SYMPTOMS.items():
        had[name] = ill & (rng.random(records) < rate)
    grave = np.isin(severity, ("severe", "critical"))
    had["pneumonia"] = had["hypoxaemia"] = grave
    for name, (dead, alive) in COMPLICATIONS.items():
        had[name] = rng.random(records) < np.where(died, dead, np.where(grave, alive, 0.0))
    out = pd.concat([out, pd.DataFrame(had)], axis=1)
    out["died"] = died
    out["cluster"] = _cluster(out, seed)
    return out


def as_table(drawn: pd.DataFrame) -> Table:
    """The drawn patients as a table to learn from: `died` is the label, the cluster is left out."""
    described = drawn.drop(columns=["died", "cluster"])
    return encode(described, drawn["died"].to_numpy().astype(np.int64), ("survived", "died"), source="the drawn set")


def _condition_rates(sources: Sources) -> dict[str, np.ndarray]:
    """Share of the sample's patients of each sex and age group that ever had each of the common conditions."""
    patients = sources.patients
    age = YEAR - patients["BIRTHDATE"].str[:4].astype(int).to_numpy()
    group = _group((patients["GENDER"] == "F").to_numpy(), age)
    count = np.bincount(group, minlength=2 * (len(AGES) - 1))
    common = sources.conditions.groupby("DESCRIPTION")["PATIENT"].nunique().nlargest(COMMON).index
    wanted = dict.fromkeys([*common, *RISKS])
    rates = {}
    for name in wanted:
        who = patients["Id"].isin(sources.conditions.loc[sources.conditions["DESCRIPTION"] == name, "PATIENT"])
        rates[name] = np.bincount(group[who.to_numpy()], minlength=len(count)) / np.maximum(count, 1)
    return rates


def _group(female: np.ndarray, age: np.ndarray) -> np.ndarray:
    return female * (len(AGES) - 1) + np.clip(np.searchsorted(AGES, age, side="right") - 1, 0, len(AGES) - 2)


def _severity(table: pd.DataFrame, age: np.ndarray, at_risk: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    names = [c for c in table.columns if c.endswith("Severity")]
    drawn, out = rng.random(len(age)), np.full(len(age), "negative", object)
    for row in table.to_dict("records"):
        low, high = map(int, str(row["age"]).split("-"))
        own = (age >= low) & (age <= high) & (at_risk == (row["covid19_risk"] == "high"))
        ends = np.cumsum([row[n] for n in names])
        levels = np.array([n.split()[0].lower() for n in names], object)
        out[own] = levels[np.searchsorted(ends, drawn[own]).clip(max=len(names) - 1)]
    return out


def _death_rate(table: pd.DataFrame, severity: np.ndarray) -> np.ndarray:
    rates = dict(zip(table["covid19_severity"], table["Survival: Non-Survivor"], strict=True))
    return np.array([rates[s] for s in severity], float)


def _cluster(frame: pd.DataFrame, seed: int) -> np.ndarray:
    described = pd.get_dummies(frame[["female", "race", "hispanic", "married", "expenses", "coverage"]]).astype(float)
    found = KMeans(2, n_init=10, random_state=seed).fit_predict(MinMaxScaler().fit_transform(described))
    return found if (found == 0).sum() >= (found == 1).sum() else 1 - found
