"""The chain of decisions: what breaks it is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import GatehouseError
from tasks.promotion.ledger import START, append, head_of, ruling


def chain(path: Path, n: int) -> str:
    heads = [append(path, {"decision": "promoted", "version": i}) for i in range(n)]
    return heads[-1]


def test_the_chain_begins_with_nothing_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "log" / "decisions.jsonl"
    assert head_of(path) == START
    head = chain(path, 3)
    assert head_of(path) == head
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", [0, 1])
def test_an_edited_line_breaks_it(tmp_path: Path, line: int) -> None:
    path = tmp_path / "decisions.jsonl"
    chain(path, 3)
    lines = path.read_text().splitlines()
    lines[line] = lines[line].replace("promoted", "refused")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(GatehouseError, match=f"breaks at line {line + 2}"):
        head_of(path)
    with pytest.raises(GatehouseError):
        append(path, {"decision": "promoted"})


def test_a_removed_or_reordered_line_breaks_it(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    chain(path, 3)
    lines = path.read_text().splitlines()
    for changed in ([lines[0], lines[2]], lines[1:], [lines[1], lines[0], lines[2]], ["{}", *lines]):
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(GatehouseError, match="breaks at line"):
            head_of(path)


def test_a_changed_last_line_changes_the_head(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    head = chain(path, 2)
    path.write_text(path.read_text().replace('"version": 1', '"version": 7'))
    assert head_of(path) != head


def test_the_ruling_is_the_newest_entry_that_promoted_or_withdrew(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    assert ruling(path) is None
    append(path, {"decision": "refused", "version": None})
    assert ruling(path) is None
    for version in ("1", "2"):
        append(path, {"decision": "promoted", "version": version})
    append(path, {"decision": "refused", "version": None})
    found = ruling(path)
    assert found is not None
    assert found["version"] == "2"
    append(path, {"decision": "withdrawn", "version": "2"})
    found = ruling(path)
    assert found is not None
    assert found["decision"] == "withdrawn"


def test_the_ruling_of_a_broken_chain_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    chain(path, 3)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(GatehouseError, match="breaks at line 1"):
        ruling(path)
