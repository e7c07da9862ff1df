from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from tasks.data.expectations import COLUMNS, _suite, expect
from tasks.errors import GatehouseError

CLASSES = ("a", "b")


def manifest() -> pd.DataFrame:
    n = 12
    rows = {
        "path": [f"p{i}" for i in range(n)],
        "sha256": [f"{i:064x}" for i in range(n)],
        "phash": [f"{i:016x}" for i in range(n)],
        "label": ["a", "b"] * 6,
        "split": ["train", "train", "val", "val", "test", "test"] * 2,
        "group": [""] * n,
        "width": [64] * n,
        "height": [64] * n,
        "mean": [100.0] * n,
        "sd": [40.0] * n,
        "source": ["s"] * n,
    }
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_a_sound_manifest_meets_all_expectations_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rows = expect(manifest(), CLASSES, "s")
    assert len(rows) == 24
    assert [r for r in rows if not r["passed"]] == []
    assert list(tmp_path.iterdir()) == []
    assert os.environ["GX_ANALYTICS_ENABLED"].lower() == "false"


@pytest.mark.parametrize(
    ("column", "value", "failing"),
    [
        ("sha256", "xyz", "expect_column_values_to_match_regex"),
        ("path", "p1", "expect_column_values_to_be_unique"),
        ("label", "c", "expect_column_distinct_values_to_equal_set"),
        ("split", "holdout", "expect_column_distinct_values_to_equal_set"),
        ("source", "other", "expect_column_distinct_values_to_equal_set"),
        ("width", 4, "expect_column_values_to_be_between"),
        ("sd", 0.0, "expect_column_values_to_be_between"),
        ("group", None, "expect_column_values_to_not_be_null"),
    ],
)
def test_each_flaw_fails_its_expectation_only(column: str, value: object, failing: str) -> None:
    broken = manifest()
    broken.loc[0, column] = value
    rows = [r for r in expect(broken, CLASSES, "s") if not r["passed"]]
    assert [(r["expectation"], r["column"]) for r in rows] == [(failing, column)]


def test_an_empty_suite_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.data.expectations._suite", lambda *_: [])
    with pytest.raises(GatehouseError, match="ran 0 of 0 expectations"):
        expect(manifest(), CLASSES, "s")


def test_a_suite_that_loses_an_expectation_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*args: object) -> list[object]:
        suite = _suite(*args)  # type: ignore[arg-type]
        return [*suite, suite[-1]]  # GX keeps one of two equal ones

    monkeypatch.setattr("tasks.data.expectations._suite", twice)
    with pytest.raises(GatehouseError, match="ran 24 of 25"):
        expect(manifest(), CLASSES, "s")
