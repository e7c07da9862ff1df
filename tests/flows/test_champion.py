"""An older version with evidence of its own is not served when somebody moves the alias back to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.champion import UnprovenError, _refuse_what_no_decision_chose, withdraw
from tasks.promotion.ledger import LEDGER, append

OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    append(LEDGER, {"decision": "promoted", "version": "1", "sha256": OLD})
    append(LEDGER, {"decision": "promoted", "version": "2", "sha256": NEW})
    append(LEDGER, {"decision": "refused", "version": None, "sha256": OLD})


@pytest.mark.usefixtures("decided")
def test_the_newest_decision_names_the_champion() -> None:
    _refuse_what_no_decision_chose("m", "2", NEW)
    for version, sha256 in (("1", OLD), ("2", OLD), ("3", NEW)):
        with pytest.raises(UnprovenError, match=r"promoted version 2: somebody moved the alias"):
            _refuse_what_no_decision_chose("m", version, sha256)


@pytest.mark.usefixtures("decided")
def test_a_withdrawn_champion_is_refused_until_the_next_promotion() -> None:
    withdraw("2", NEW, "An advisory names its teacher.")
    for version, sha256 in (("2", NEW), ("1", OLD)):
        with pytest.raises(UnprovenError, match=r"Version 2 .* out of service .* An advisory names its teacher\."):
            _refuse_what_no_decision_chose("m", version, sha256)
    append(LEDGER, {"decision": "promoted", "version": "3", "sha256": OLD})
    _refuse_what_no_decision_chose("m", "3", OLD)


def test_without_a_record_of_decisions_the_evidence_alone_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _refuse_what_no_decision_chose("m", "1", OLD)
