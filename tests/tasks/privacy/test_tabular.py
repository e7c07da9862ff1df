"""CSV files as numbers: what is refused at the door, and what every column becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from tasks.errors import GatehouseError
from tasks.privacy.tabular import FEWEST, _ranks, read_table


def frame(n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(0, 90, n),
            "income": rng.lognormal(10, 2, n),
            "town": np.array(["a", "b", "c"])[np.arange(n) % 3],
            "ward": ["rare" if i < FEWEST - 1 else "common" if i % 2 else "usual" for i in range(n)],
            "smoker": np.arange(n) % 2 == 0,
            "id": [f"record {i}" for i in range(n)],
            "unit": ["kg"] * n,
            "died": np.array(["no", "yes"])[(rng.random(n) < 0.3).astype(int)],
        }
    )


def written(tmp_path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def test_mixed_columns_become_numbers_between_minus_one_and_one(tmp_path: Path) -> None:
    raw = frame()
    table = read_table(written(tmp_path, raw), "died")
    assert table.classes == ("no", "yes")
    assert np.array_equal(table.y, (raw["died"] == "yes").to_numpy())
    assert table.features == (
        "age", "income", "town=a", "town=b", "town=c", "ward=common", "ward=usual", "smoker=True",
    )  # fmt: skip
    assert table.left_out == ("id", "unit")
    assert table.x.dtype == np.float32
    assert np.abs(table.x).max() <= 1
    town = table.x[:, table.features.index("town=b")]
    assert np.array_equal(town, np.where(raw["town"] == "b", 1, -1))
    income = table.x[:, table.features.index("income")]
    assert np.corrcoef(rankdata(income), rankdata(raw["income"]))[0, 1] > 0.999
    assert (table.x[: FEWEST - 1, table.features.index("ward=common")] == -1).all()
    assert "age" not in read_table(written(tmp_path, raw), "died", drop=("age",)).features


@given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=200))
def test_ranks_keep_the_order_and_the_range(numbers: list[float]) -> None:
    values = np.array(numbers)
    if len(np.unique(values)) < 2:
        return
    ranks = _ranks(values)
    assert ranks.min() >= -1
    assert ranks.max() <= 1
    order = np.argsort(values, kind="stable")
    assert (np.diff(ranks[order]) >= 0).all()


def test_what_cannot_be_learnt_from_is_one_clear_error(tmp_path: Path) -> None:
    def refused(table: pd.DataFrame, label: str = "died", **options: tuple[str, ...]) -> str:
        with pytest.raises(GatehouseError) as error:
            read_table(written(tmp_path, table), label, **options)
        return str(error.value)

    with pytest.raises(GatehouseError, match="does not exist"):
        read_table(tmp_path / "none.csv", "died")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(GatehouseError, match="not a CSV file"):
        read_table(tmp_path / "empty.csv", "died")
    assert "has no column 'outcome'; it has age, income" in refused(frame(), "outcome")
    assert "has no column 'weight'" in refused(frame(), drop=("weight",))
    assert "holds 60 records" in refused(frame(60))
    assert "the same 'died' (no)" in refused(frame().assign(died="no"))
    assert "has 200 different values" in refused(frame(), "id")
    assert "has 3 records; every class" in refused(frame().assign(died=["x"] * 3 + ["y"] * 197))
    assert "missing values in income (2)" in refused(frame().assign(income=[np.nan] * 2 + [1.0, 2.0] * 99))
    assert "have no 'died'" in refused(frame().assign(died=[None, *["a", "b"] * 99, "a"]))
    assert "'income' holds values that are not finite" in refused(frame().assign(income=[np.inf, *range(199)]))
    assert "no column that describes" in refused(frame()[["id", "unit", "died"]])
