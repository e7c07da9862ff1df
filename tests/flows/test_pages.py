"""Figures as the pages print them, and blocks that are filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.pages import fill, number
from tasks.errors import GatehouseError


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [
        (None, None, "–"),
        (0.126, None, ".13"),
        (-0.126, 0.01, "-.13 ± .01"),
        (-0.004, None, ".00"),
        (0.996, None, "1.00"),
        (10.06, None, "10.06"),
    ],
)
def test_numbers_have_two_decimals_and_no_leading_zero(value: float | None, sd: float | None, text: str) -> None:
    assert number(value, sd) == text


def test_blocks_are_filled_and_what_stands_between_them_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end a -->\nafter\n")
    fill(page, {"a": lambda n: f"new {n}"}, 3)
    assert page.read_text() == "before\n<!-- a -->\nnew 3\n<!-- end a -->\nafter\n"
    with pytest.raises(GatehouseError, match="has a block 'a' that nothing fills"):
        fill(page, {}, 3)
    fill(tmp_path / "none.md", {}, 3)
