"""Every decision, also a refusal, as a signed line of an append-only file; each line holds the digest of the last one.

Editing, removing or reordering lines breaks the chain, and who recomputes the digests cannot sign them. Lines cut off
at the end leave a whole chain: whoever believes the newest line compares its number with one that he has seen.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes
from tasks.promotion.envelope import is_signed, sign
from tasks.promotion.keys import PrivateKey, key_id
from tasks.promotion.trust import Trust

START = "0" * 64
LEDGER = Path(".gatehouse/decisions.jsonl")
REIGNS = ("promoted", "rolled_back")  # decisions that make a version champion
RULINGS = (*REIGNS, "withdrawn")  # decisions on who is champion; a refusal changes nothing
CONTINUED = "continued"  # first line of a chain whose beginning was moved aside
LINE_TYPE = "application/vnd.gatehouse.decision+json"
MEND = "Restore the file from a copy, or move it aside to begin a new chain, and keep it for whoever investigates."

Entry = dict[str, Any]


def append(path: Path, entry: Entry, *, key: PrivateKey, trust: Trust, after: Entry | None = None) -> Entry:
    """Add a signed line after checking the chain so far; returns it, with its number and signature.

    Args:
        after: the line that the chain follows on where there is no file, e.g. one that the registry has kept.
    """
    chain = read(path, trust)
    if not chain and after is not None:
        chain = [_add(path, {"decision": CONTINUED, "at": entry["at"]}, after, key)]
    return _add(path, entry, chain[-1] if chain else None, key)


def read(path: Path, trust: Trust) -> list[Entry]:
    """All lines, oldest first; none where there is no file.

    Raises:
        GatehouseError: a line is not signed by a trusted key (one that has expired since is good enough here), or does
            not follow on the one before it.
    """
    entries: list[Entry] = []
    if not path.exists():
        return entries
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        where = f"{path}: the chain of decisions breaks at line {number}"
        try:
            entry = parse(line, trust, source=where)
        except GatehouseError as error:
            raise GatehouseError(f"{error} {MEND}") from error
        before = entries[-1] if entries else None
        follows = (entry["number"], entry["previous"]) == _place_after(before)
        if not follows and not (before is None and entry["decision"] == CONTINUED):
            raise GatehouseError(f"{where}; something before it was changed or removed. {MEND}")
        entries.append(entry)
    return entries


def parse(line: str, trust: Trust, *, source: str) -> Entry:
    """One line, if a trusted key signed it; raises GatehouseError, in which `source` names it, otherwise."""
    try:
        entry = json.loads(line)
        body = {k: v for k, v in entry.items() if k != "signature"}
        key, decision, number = trust.named(entry["key"]), entry["decision"], entry["number"]
        fits = isinstance(decision, str) and isinstance(number, int) and text_of(entry) == line
        signed = key is not None and is_signed(_bytes(body), entry["signature"], key.key, kind=LINE_TYPE)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GatehouseError(f"{source}; it is no signed decision ({type(error).__name__}: {error}).") from error
    if key is None:
        raise GatehouseError(f"{source}; it is signed by the key {str(entry['key'])[:12]}, which is not trusted.")
    if not (fits and signed):
        raise GatehouseError(f"{source}; the signature does not match, so it was changed after signing.")
    return dict(entry)


def ruling(entries: list[Entry], model: str) -> Entry | None:
    """The newest decision on who is champion of this name; None where there is none.

    Its `decision` is `promoted` or `rolled_back` (this version reigns) or `withdrawn` (nothing does until the next).
    """
    return next((e for e in reversed(entries) if e["decision"] in RULINGS and e.get("model") == model), None)


def digest_of(entry: Entry | None) -> str:
    """Hex SHA-256 of a line; 64 zeros before the first."""
    return START if entry is None else sha256_bytes(_bytes(entry))


def text_of(entry: Entry) -> str:
    """The line as it is written, without its end."""
    return json.dumps(entry, sort_keys=True, ensure_ascii=True, allow_nan=False)


def _bytes(entry: Entry) -> bytes:
    return text_of(entry).encode()


def _place_after(entry: Entry | None) -> tuple[int, str]:
    return (1 if entry is None else entry["number"] + 1), digest_of(entry)


def _add(path: Path, entry: Entry, before: Entry | None, key: PrivateKey) -> Entry:
    number, previous = _place_after(before)
    body = {**entry, "number": number, "previous": previous, "key": key_id(key.public_key())}
    line = {**body, "signature": sign(_bytes(body), key, kind=LINE_TYPE)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as f:
        f.write(_bytes(line) + b"\n")
        f.flush()
        os.fsync(f.fileno())
    return line
