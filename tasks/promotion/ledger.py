"""Every decision, also a refusal, as a line of an append-only file; each line holds the digest of the one before it.

Removing, reordering or editing a line breaks the chain. Cutting lines off its end does not, so the head that `append`
returns is worth keeping elsewhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes

START = "0" * 64
LEDGER = Path(".gatehouse/decisions.jsonl")
RULINGS = ("promoted", "withdrawn")  # decisions that change who is champion; a refusal changes nothing


def append(path: Path, entry: dict[str, Any]) -> str:
    """Add a line after checking the chain so far; returns the chain's new head (hex SHA-256 of the line)."""
    head = head_of(path)
    line = json.dumps({"previous": head, **entry}, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as f:
        f.write(line + b"\n")
        f.flush()
        os.fsync(f.fileno())
    return sha256_bytes(line)


def head_of(path: Path) -> str:
    """Digest of the last line; 64 zeros for a chain that has not begun.

    Raises:
        GatehouseError: a line does not hold the digest of the one before it.
    """
    return _walk(path)[0]


def ruling(path: Path) -> dict[str, Any] | None:
    """The newest entry that says who is champion, from a whole chain; None where there is none.

    Its `decision` is `promoted` (this version reigns) or `withdrawn` (nothing does until the next promotion).

    Raises:
        GatehouseError: the chain is broken.
    """
    rulings = [entry for entry in _walk(path)[1] if entry.get("decision") in RULINGS]
    return rulings[-1] if rulings else None


def _walk(path: Path) -> tuple[str, list[dict[str, Any]]]:
    head = START
    entries: list[dict[str, Any]] = []
    if not path.exists():
        return head, entries
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            entry = json.loads(line)
            previous = entry["previous"]
        except (ValueError, KeyError, TypeError):
            previous = None
        if previous != head:
            raise GatehouseError(
                f"{path}: the chain of decisions breaks at line {number}; something before it was changed or removed. "
                "Move the file aside to begin a new chain, and keep it for whoever investigates."
            )
        head = sha256_bytes(line)
        entries.append(entry)
    return head, entries
