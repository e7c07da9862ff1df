"""Threats: which were tested on this candidate, by what and with which verdict, and which were not."""

from __future__ import annotations

from typing import Any

from tasks.gate import GateResult
from tasks.promotion.dossier.blocks import Block, chip, table, text
from tasks.promotion.dossier.reports import Reports
from tasks.promotion.dossier.words import humane
from tasks.promotion.threats import threat_table

STATES = {"passed": "passed", "failed": "failed", "inconclusive": "unsure", "not tested": "unsure"}


def threats(reports: Reports, candidate: str) -> list[Block]:
    """The chapter's blocks."""
    results = [r for r in reports.gates(candidate).values() if isinstance(r, GateResult)]
    head = ["Threat", "OWASP ML", "MITRE ATLAS", "Verdict", "Tested by", "Not seen"]
    words = (
        "The threats of OWASP's machine learning top ten with the techniques of MITRE ATLAS. A verdict is the worst of "
        "the checks that speak of the threat. Where no gate does, nothing was shown about this candidate."
    )
    rows = [_row(record) for record in threat_table(reports.policy(), results)]
    return [text(words), table("Threats, tested and not", head, rows)]


def _row(record: dict[str, Any]) -> list[Any]:
    verdict = chip(STATES.get(record["tested"], "plain"), record["tested"])
    why = f" Here: {record['why']}." if record["why"] else ""
    name = humane(record["threat"])
    return [name, record["owasp_ml"], record["mitre_atlas"], verdict, record["tested_by"] + why, record["not_seen"]]
