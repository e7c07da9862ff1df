"""The chapters on data, teacher, freeze policy and candidates, from the stages' reports."""

from __future__ import annotations

from typing import Any

from tasks.promotion.dossier.blocks import Block, absent, chip, figures, heading, points, table, text
from tasks.promotion.dossier.reports import CANDIDATES, Reports
from tasks.promotion.dossier.words import figure, humane, number, short


def sections(reports: Reports, candidate: str) -> list[dict[str, Any]]:
    """Chapters in the order of the pipeline; one whose report is missing says so."""
    return [
        {"id": "data", "title": "Data", "blocks": data(reports)},
        {"id": "teacher", "title": "Teacher", "blocks": teacher(reports)},
        {"id": "freeze", "title": "Freeze policy", "blocks": freeze(reports)},
        {"id": "student", "title": "Candidates", "blocks": candidates(reports, candidate)},
    ]


def gate_facts(gate: str, report: dict[str, Any]) -> list[Block]:
    return []


def data(reports: Reports) -> list[Block]:
    report = reports.json("data")
    blocks: list[Block] = [] if report else [absent("The data stage has not reported (reports/data.json).")]
    if pictures := reports.figures("data"):
        blocks.append(figures(pictures))
    return blocks


def teacher(reports: Reports) -> list[Block]:
    """Each candidate teacher: accepted or refused, its checks, and the choice."""
    report = reports.json("teacher")
    if not report:
        return [absent("The teacher stage has not reported (reports/teacher.json).")]
    rows = [
        [
            c["name"],
            c["provider"],
            c["architecture"],
            chip("passed", "chosen") if c["name"] == report["chosen"] else _accepted(c),
            figure(c["accuracy"]),
            number(c["claimed_accuracy"]),
            {"mono": short(c["sha256"] or "")},
        ]
        for c in report["candidates"]
    ]
    head = ["Teacher", "Provider", "Architecture", "Outcome", "Accuracy, measured", "Accuracy, claimed", "SHA-256"]
    blocks = [text(report["why"]), table("Candidate teachers", head, rows, numeric=(4, 5))]
    for c in report["candidates"]:
        states = {"pass": "passed", "fail": "failed", "unknown": "unsure"}
        checks = [
            [
                humane(f["name"]),
                chip("unsure", "waived") if f["waived"] else chip(states[f["status"]], f["status"]),
                f["evidence"],
            ]
            for f in c["checks"]
        ]
        outcome = "refused" if not c["accepted"] else "chosen" if c["name"] == report["chosen"] else "not refused"
        blocks += [
            heading(f"{humane(c['name'])}: {outcome}"),
            table(f"Provenance checks of {c['name']}", ["Check", "Result", "Evidence"], checks),
        ]
    return blocks


def _accepted(candidate: dict[str, Any]) -> dict[str, str]:
    return chip("plain", "not refused") if candidate["accepted"] else chip("failed", "refused")


def freeze(reports: Reports) -> list[Block]:
    report = reports.json("drill")
    if not report:
        return [absent("The drill stage has not reported (reports/drill.json).")]
    return []


def candidates(reports: Reports, candidate: str) -> list[Block]:
    blocks: list[Block] = []
    for name in (candidate, *(c for c in CANDIDATES if c != candidate)):
        report = reports.json(name)
        if not report:
            blocks.append(absent(f"The {name} stage has not reported (reports/{name}.json)."))
    return blocks


__all__ = ["gate_facts", "points", "sections"]
