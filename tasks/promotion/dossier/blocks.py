"""What a chapter is made of: text, headings, tables, figures. The template knows how each looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.promotion.dossier.reports import Figure

Block = dict[str, Any]
HOTTEST = (176, 42, 30)  # mixed half and half with white at most, so that dark text stays legible


def text(words: str) -> Block:
    return {"kind": "text", "text": words}


def heading(words: str) -> Block:
    return {"kind": "heading", "text": words}


def absent(words: str) -> Block:
    """Says that something has not been reported."""
    return {"kind": "absent", "text": words}


def figures(pictures: list[Figure]) -> Block:
    return {"kind": "figures", "figures": pictures}


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]], *, numeric: Sequence[int] = ()) -> Block:
    """A table whose first column names the row; cells are text, `chip(…)` or {"mono": …}."""
    return {"kind": "table", "caption": caption, "head": list(head), "rows": list(rows), "numeric": list(numeric)}


def chip(state: str, word: str) -> dict[str, str]:
    """A verdict in a coloured pill; `state` is passed, failed, unsure or plain."""
    return {"state": state, "text": word}


def heat(value: float | None) -> dict[str, Any] | str:
    """A share in [0, 1] as a cell that is darker the larger it is; a dash where there is none."""
    if value is None:
        return "–"
    share = 0.5 * min(1.0, max(0.0, value))
    shade = ", ".join(str(round(255 + share * (channel - 255))) for channel in HOTTEST)
    return {"heat": f"rgb({shade})", "text": f"{value:.2f}"}
