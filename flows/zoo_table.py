"""The rows of reports/study/mitigation.json: new ones take the place of those that stand for the same teacher.

Measuring all takes hours, so a table may hold rows of two recipes. Each says where its own is not the table's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.backdoor.zoo.plan import ROW, ZooTeacher
from tasks.files import read_json

Row = dict[str, Any]
RECIPE = "student"  # of the table: the section of params.yaml; of a row: the keys in which its own was another


def standing(file: Path, recipe: Mapping[str, Any]) -> list[Row]:
    """The rows of the table in `file`, none where there is no table, told by this recipe.

    A key that an older recipe did not have yet is None in the row.
    """
    if not file.exists():
        return []
    table = read_json(file)
    rows = []
    for row in table["rows"]:
        own = table[RECIPE] | row.get(RECIPE, {})
        other = {key: own.get(key) for key, value in recipe.items() if own.get(key) != value}
        rows.append({k: v for k, v in row.items() if k != RECIPE} | ({RECIPE: other} if other else {}))
    return rows


def merged(rows: Iterable[Row], added: Iterable[Row], planned: Sequence[ZooTeacher]) -> list[Row]:
    """In the plan's order, a row a teacher: the added one where there is one; none of teachers that are not planned."""
    by_teacher = {_key(row): row for row in (*rows, *added)}
    return [by_teacher[key] for t in planned if (key := _key(t.as_json())) in by_teacher]


def unmeasured(teachers: Sequence[ZooTeacher], rows: Iterable[Row]) -> list[ZooTeacher]:
    """The teachers that no row stands for, or one by another recipe."""
    have = {_key(row) for row in rows if RECIPE not in row}
    return [t for t in teachers if _key(t.as_json()) not in have]


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ROW)
