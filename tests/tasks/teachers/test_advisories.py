from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import GatehouseError
from tasks.teachers.advisories import load_advisories


def test_file_of_the_project_is_valid(project: Path) -> None:
    assert load_advisories(project / "cards/advisories.yaml").advisories == ()


def test_digests_are_matched(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    x, y = "a1" * 32, "b2" * 32
    path.write_text(f"advisories:\n- {{id: A, text: bad, sha256: [{x}, {y}]}}\n- {{id: B, text: bad, sha256: [{y}]}}\n")
    known = load_advisories(path)
    assert [a.id for a in known.about(y)] == ["A", "B"]
    assert known.about("c3" * 32) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not as it should be"),
        ("advisories: [{id: A, text: bad, sha256: []}]", r"advisories\.0\.sha256"),
        ("advisories: [{id: A}]", r"advisories\.0\.text"),
        (f"advisories: [{{id: A, text: bad, sha256: [{'AB' * 32}]}}]", r"advisories\.0\.sha256\.0 .* match pattern"),
        ("advisories: [", "not valid YAML"),
    ],
)
def test_malformed_file_is_an_error_and_not_no_warning(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(GatehouseError, match=words):
        load_advisories(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match="do not exist"):
        load_advisories(tmp_path / "none.yaml")
