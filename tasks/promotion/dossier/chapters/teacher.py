"""Teacher: who was on offer, what was found of each, and why one was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tasks.promotion.dossier.blocks import Block, absent, chip, figures, heading, table, text
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
    vetted = [c for c in offers if pick(c, "vetting")]
    return [*blocks, *_vetting(vetted, reports), *(block for c in offers for block in _checks(c))]


def _vetting(offers: list[Mapping[str, Any]], reports: Reports) -> list[Block]:
    """Every candidate that was not refused, beside reference models, with the patterns that steer the chosen one."""
    rows = []
    for offer in offers:
        found = pick(offer, "vetting")
        state = {"tampered": "failed", "no sign": "passed", "inconclusive": "unsure"}.get(found["verdict"], "plain")
        power, alarms = pick(found, "power"), pick(found, "false_alarms")
        rows.append(
            [
                str(pick(offer, "name")),
                chip(state, found["verdict"]),
                number(pick(found, "score")),
                _counted(power),
                _counted(alarms),
                pick(found, "why") or _loudest(found),
            ]
        )
    if not rows:
        return []
    words = (
        "Each candidate is inspected beside models of the same task, trained here: clean ones, and poisoned ones "
        "(canaries). Of twenty honest models one scores above 0.5. Finding nothing counts only where at least nine in "
        "ten canaries are caught. A teacher called tampered ranks last and is not refused: what a backdoor leaves in "
        "the student is measured there."
    )
    head = ["Teacher", "Vetting", "Score", "Canaries caught", "Clean accused", "What stands out most"]
    blocks = [heading("Was it tampered with?"), text(words), table("Vetting", head, rows, numeric=(2, 3, 4))]
    pictures = [
        replace(picture, caption=f"{humane(pick(offer, 'name'))}: its score beside models whose truth is known")
        for offer in offers
        if (name := pick(offer, "vetting", "scores_picture")) and (picture := reports.figure("teacher", name))
    ]
    pictures += [
        replace(picture, caption=_caption(pick(offer, "name"), trigger))
        for offer in offers
        for trigger in pick(offer, "vetting", "triggers") or []
        if (picture := reports.figure("teacher", trigger["picture"]))
    ]
    return [*blocks, figures(pictures)] if pictures else blocks


def _counted(rate: Any) -> str:
    return f"{rate['hits']} of {rate['n']}" if rate else "–"


def _loudest(found: Mapping[str, Any]) -> str:
    """The deciding detector that is furthest out, in standard deviations of clean references."""
    deciding = {name: d["deviation"] for name, d in found["detectors"].items() if d["decides"]}
    name = max(deciding, key=lambda n: deciding[n])
    return f"{humane(name)}: {number(deciding[name])} standard deviations"


def _caption(name: str, trigger: Mapping[str, Any]) -> str:
    return (
        f"{humane(name)}: the {trigger['kind']} that raises {trigger['class']} furthest beyond the references: "
        f"control {number(trigger['control'])}, {number(trigger['references_control'])} in clean references"
    )


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
