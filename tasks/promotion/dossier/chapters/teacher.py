"""Teacher: who was on offer, what was found of each, and why one was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.promotion.dossier.blocks import Block, absent, chip, heading, table, text
from tasks.promotion.dossier.chapters.freeze import teacher_scan
from tasks.promotion.dossier.reports import Reports
from tasks.promotion.dossier.words import humane, measured, number, pick, short

STATES = {"pass": "passed", "fail": "failed", "unknown": "unsure"}


def teacher(reports: Reports) -> list[Block]:
    """The chapter's blocks."""
    report = reports.json("teacher")
    if not report:
        return [absent("The teacher stage has not reported (`reports/teacher.json`).")]
    offers = pick(report, "candidates") or []
    rows = [
        [
            str(pick(c, "name")),
            pick(c, "provider") or "–",
            pick(c, "architecture") or "–",
            _outcome(c, report),
            measured(pick(c, "accuracy")),
            number(pick(c, "claimed_accuracy")),
            {"mono": short(str(pick(c, "sha256") or ""))},
        ]
        for c in offers
    ]
    head = ["Teacher", "Provider", "Architecture", "Outcome", "Accuracy, measured", "Accuracy, claimed", "SHA-256"]
    blocks = [text(str(pick(report, "why") or "")), table("Teachers on offer", head, rows, numeric=(4, 5, 6))]
    if waived := pick(report, "waive"):
        blocks.append(text(f"The operator accepts these failures (`teacher.waive`): {', '.join(waived)}."))
    return [*blocks, *(block for c in offers for block in _checks(c)), *teacher_scan(reports.json("drill"))]


def _outcome(offer: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, str]:
    if pick(offer, "name") == pick(report, "chosen"):
        return chip("passed", "chosen")
    return chip("plain", "not refused") if pick(offer, "accepted") else chip("failed", "refused")


def _checks(offer: Mapping[str, Any]) -> list[Block]:
    """Every check of one teacher; failures first, for they are what a reviewer looks for."""
    found = sorted(pick(offer, "checks") or [], key=lambda f: ["fail", "unknown", "pass"].index(f["status"]))
    rows = []
    for check in found:
        status = (
            chip("unsure", "fail, waived") if check.get("waived") else chip(STATES[check["status"]], check["status"])
        )
        rows.append([humane(check["name"]), status, check["evidence"]])
    name = str(pick(offer, "name"))
    return [heading(humane(name)), table(f"Provenance checks of {name}", ["Check", "Result", "Evidence"], rows)]
