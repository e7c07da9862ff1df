"""The chain of decisions: what breaks it is noticed, also by who cannot be fooled with recomputed digests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes
from tasks.promotion.keys import PrivateKey, key_id, signing_key
from tasks.promotion.ledger import START, Entry, append, digest_of, parse, read, ruling, text_of
from tasks.promotion.trust import Trust, only

Key = tuple[PrivateKey, Trust]


@pytest.fixture
def own(tmp_path: Path) -> Key:
    key = signing_key(tmp_path / "keys" / "promotion.key")
    return key, only(key.public_key())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "decisions.jsonl"


def add(path: Path, own: Key, decision: str = "promoted", **entry: object) -> Entry:
    return append(path, {"at": "now", "model": "m", "decision": decision, **entry}, key=own[0], trust=own[1])


def chain(path: Path, own: Key, n: int = 3) -> list[str]:
    for version in range(n):
        add(path, own, version=version)
    return path.read_text().splitlines()


def test_the_chain_begins_with_nothing_and_grows(path: Path, own: Key) -> None:
    assert read(path, own[1]) == []
    assert digest_of(None) == START
    lines = chain(path, own)
    entries = read(path, own[1])
    assert [e["number"] for e in entries] == [1, 2, 3]
    assert [e["previous"] for e in entries] == [START, *(sha256_bytes(line.encode()) for line in lines[:2])]
    assert digest_of(entries[-1]) == sha256_bytes(lines[-1].encode())


@pytest.mark.parametrize("line", [0, 1, 2])
def test_an_edited_line_is_named(path: Path, own: Key, line: int) -> None:
    lines = chain(path, own)
    lines[line] = lines[line].replace("promoted", "refused")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(GatehouseError, match=f"breaks at line {line + 1}; the signature does not match"):
        read(path, own[1])
    with pytest.raises(GatehouseError, match="breaks at line"):
        add(path, own)


def test_a_removed_or_reordered_line_breaks_it(path: Path, own: Key) -> None:
    lines = chain(path, own)
    for changed in ([lines[0], lines[2]], lines[1:], [lines[1], lines[0], lines[2]]):
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(GatehouseError, match="something before it was changed or removed"):
            read(path, own[1])


def test_recomputed_digests_help_nobody_without_the_key(path: Path, own: Key, tmp_path: Path) -> None:
    chain(path, own)
    forged, previous = [], START
    for line in path.read_text().splitlines():
        entry = {**json.loads(line), "previous": previous, "decision": "refused"}
        forged.append(text_of(entry))
        previous = digest_of(entry)
    path.write_text("\n".join(forged) + "\n")
    with pytest.raises(GatehouseError, match="line 1; the signature does not match"):
        read(path, own[1])
    path.unlink()
    foreign = signing_key(tmp_path / "foreign" / "promotion.key")
    chain(path, (foreign, only(foreign.public_key())))
    with pytest.raises(GatehouseError, match=f"signed by the key {key_id(foreign.public_key())[:12]}, which is not"):
        read(path, own[1])


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"decision": "promoted", "key": []}', "\ufffd", '"text"', "null"])
def test_what_is_no_signed_decision_is_named(line: str, own: Key) -> None:
    with pytest.raises(GatehouseError, match=r"^It; it is (no signed decision|signed by the key)"):
        parse(line, own[1], source="It")


def test_another_spelling_of_a_signed_line_is_another_line(path: Path, own: Key) -> None:
    line = chain(path, own, 1)[0]
    assert parse(line, own[1], source="It")["number"] == 1
    with pytest.raises(GatehouseError, match="does not match"):
        parse(line.replace(": ", ":"), own[1], source="It")


def test_a_chain_can_go_on_from_a_line_that_was_kept(path: Path, own: Key) -> None:
    kept = read(path, own[1]) if chain(path, own) else []
    path.rename(path.with_suffix(".aside"))
    entry = {"at": "later", "model": "m", "decision": "promoted", "version": "9"}
    append(path, entry, key=own[0], trust=own[1], after=kept[-1])
    entries = read(path, own[1])
    assert [(e["number"], e["decision"]) for e in entries] == [(4, "continued"), (5, "promoted")]
    assert entries[0]["previous"] == digest_of(kept[-1])


def test_the_ruling_is_the_newest_entry_that_says_who_is_champion(path: Path, own: Key) -> None:
    def newest() -> tuple[str, object] | None:
        found = ruling(read(path, own[1]), "m")
        return found and (found["decision"], found["version"])

    assert newest() is None
    add(path, own, "refused", version=None)
    assert newest() is None
    for version in ("1", "2"):
        add(path, own, version=version)
    add(path, own, "refused", version=None)
    append(path, {"at": "now", "model": "other", "decision": "promoted", "version": "7"}, key=own[0], trust=own[1])
    assert newest() == ("promoted", "2")
    add(path, own, "withdrawn", version="2")
    assert newest() == ("withdrawn", "2")
    add(path, own, "rolled_back", version="1")
    assert newest() == ("rolled_back", "1")
