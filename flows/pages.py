"""Pages under docs/ whose words are written by hand and whose figures are filled in from committed tables.

A block stands between `<!-- name -->` and `<!-- end name -->`; everything outside of blocks stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tasks.errors import GatehouseError
from tasks.files import write_text

T = TypeVar("T")


def fill(page: Path, blocks: Mapping[str, Callable[[T], str]], tables: T) -> None:
    """Write every block of the page anew; GatehouseError for a block that nobody fills.

    Does nothing where the page is missing: whoever measures elsewhere than in the project wants the tables alone.
    """
    if not page.exists():
        return
    before = page.read_text(encoding="utf-8")

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        if name not in blocks:
            raise GatehouseError(f"{page} has a block {name!r} that nothing fills; known are {', '.join(blocks)}.")
        return f"<!-- {name} -->\n{blocks[name](tables).strip()}\n<!-- end {name} -->"

    text = re.sub(r"<!-- (\w+) -->\n.*?<!-- end \1 -->", filled, before, flags=re.DOTALL)
    if text != before:
        write_text(page, text)


def number(value: float | None, sd: float | None = None) -> str:
    """Two decimals without the leading zero, as the published tables' readers compare them; a dash for nothing."""
    if value is None:
        return "–"
    value = round(value, 2) + 0.0  # no minus before a zero
    text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return text if sd is None else f"{text} ± {number(sd)}"


def grid(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *rows])
