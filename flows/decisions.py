"""What this project has decided about its champion, for whoever only reads: monitoring and the asset register."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.params import Promotion
from tasks.promotion.evidence import Statement, signed_statement
from tasks.promotion.keys import public_key_path, read_public_key
from tasks.promotion.ledger import LEDGER, entries, ruling


def decisions(promotion: Promotion) -> list[dict[str, Any]]:  # noqa: ARG001
    """Every decision, oldest first; none where no record of them is at hand."""
    return entries(LEDGER)


def newest_ruling(promotion: Promotion) -> dict[str, Any] | None:  # noqa: ARG001
    """The newest decision on who is champion (`decision`, `version`, `sha256`, `at`); None where there is none.

    Raises:
        GatehouseError: it cannot be believed.
    """
    return ruling(LEDGER)


def statement_of(evidence: Path, promotion: Promotion) -> Statement:
    """What the evidence in this folder says, if one of the operator's keys signed it; raises GatehouseError."""
    return signed_statement(evidence, read_public_key(public_key_path(promotion.signing_key)))
