"""Rows of two recipes in one table: new rows take the old ones' place, and old ones say what was different."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.zoo_table import merged, standing, unmeasured
from tasks.backdoor.zoo.plan import zoo
from tasks.files import write_json

PLANNED = zoo("", 64, 7)[:3]
OLD, NEW = {"epochs": 16, "overlay": 0.3}, {"epochs": 16, "overlay": 0.45, "frames": 0.4}


def row(i: int, **own: Any) -> dict[str, Any]:
    return PLANNED[i].as_json() | own


def table(tmp_path: Path, recipe: dict[str, Any], *rows: dict[str, Any]) -> Path:
    write_json(tmp_path / "table.json", {"student": recipe, "rows": rows})
    return tmp_path / "table.json"


def test_rows_of_an_older_recipe_say_in_what_it_was_another(tmp_path: Path) -> None:
    assert standing(tmp_path / "none.json", NEW) == []
    file = table(tmp_path, OLD, row(0), row(1, student={"epochs": 10}))
    first, second = standing(file, NEW)
    assert first == row(0, student={"overlay": 0.3, "frames": None})
    assert second["student"] == {"overlay": 0.3, "frames": None, "epochs": 10}
    # The next table is written with the new recipe; what its old rows were measured by is not lost.
    file = table(tmp_path, NEW, first, second, row(2))
    assert standing(file, NEW) == [first, second, row(2)]
    assert standing(table(tmp_path, OLD, row(0)), OLD) == [row(0)]


def test_a_new_row_takes_the_place_of_the_old_one_in_the_plans_order() -> None:
    old = [row(2, verdict="old"), row(0, verdict="old", student={"epochs": 1})]
    stray = row(1, seed=999)
    rows = merged([*old, stray], [row(1), row(0, verdict="new")], PLANNED)
    assert rows == [row(0, verdict="new"), row(1), row(2, verdict="old")]


def test_what_is_unmeasured_has_no_row_or_one_by_another_recipe() -> None:
    assert unmeasured(PLANNED, [row(0), row(2, student={"epochs": 1})]) == PLANNED[1:]
