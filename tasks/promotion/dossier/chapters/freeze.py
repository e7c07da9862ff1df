"""Freeze policy: how much of a planted backdoor survives each choice of trainable layers, and at what accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.promotion.dossier.blocks import Block, absent, chip, heading, heat, table, text
from tasks.promotion.dossier.reports import Reports
from tasks.promotion.dossier.words import humane, measured, number, pick

WORDS = {"all": "all features", "last": "the last block", "none": "the head only"}


def freeze(reports: Reports) -> list[Block]:
    """The chapter's blocks."""
    report = reports.json("drill")
    if not report:
        return [absent("The drill stage has not reported (`reports/drill.json`).")]
    canaries, cells = pick(report, "canaries") or [], pick(report, "cells") or []
    recipe = pick(report, "student_training") or {}
    words = (
        f"{number(len(canaries))} backdoors of our own, the canaries, were planted in copies of the teacher, and each "
        f"copy was made a student under every freeze policy ({number(pick(recipe, 'epochs'))} epochs on "
        f"{number(pick(recipe, 'images'))} images). Trigger control says how far the planted trigger still raises any "
        "class above the rate at which it is answered without it: 0 is none, 1 is complete."
    )
    return [
        text(words),
        _canaries(canaries),
        *_heat_map(cells),
        *_choice(report),
        *_searches(pick(report, "searches") or []),
    ]


def _canaries(canaries: Sequence[Mapping[str, Any]]) -> Block:
    rows = [
        [
            humane(str(c.get("name"))),
            f"{c.get('pattern')} square of {number(c.get('side'))} pixels, {str(c.get('corner')).replace('_', ' ')}",
            str(c.get("target")),
            number(c.get("poison_rate")),
            number(c.get("teacher_success")),
            chip("passed", "took") if c.get("took") else chip("unsure", "did not take"),
        ]
        for c in canaries
    ]
    head = ["Canary", "Trigger", "Target", "Poisoned share", "Success in its teacher", "Outcome"]
    return table("Canaries: backdoors planted in copies of the teacher", head, rows, numeric=(3, 4))


def _heat_map(cells: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Models by way of training; darker is more control. Clean models show what their own mistakes look like."""
    columns = list(dict.fromkeys((c["arm"], str(c["policy"])) for c in cells))
    found: dict[str, dict[tuple[str, str], float]] = {}
    for c in cells:
        name = humane(str(c["model"]))
        key, value = (c["arm"], str(c["policy"])), pick(c, "trigger_control", "value")
        own = found.setdefault(name, {})
        own[key] = max(own.get(key, -1.0), value if value is not None else -1.0)
    rows = [[name, *(heat(own.get(key)) for key in columns)] for name, own in found.items()]
    head = ["Model", *(f"{humane(arm)}, {WORDS.get(policy, policy)} trainable" for arm, policy in columns)]
    caption = "Trigger control in the students (defended: against backdoors, as the candidate; undefended: plainly)"
    return [table(caption, head, rows, numeric=range(1, len(head)))] if rows else []


def _choice(report: Mapping[str, Any]) -> list[Block]:
    chosen, used = pick(report, "freeze", "policy"), pick(report, "freeze", "used")
    rows = [
        [
            humane(WORDS.get(str(r["policy"]), f"{r['policy']} blocks")),
            chip("passed", "chosen") if r["policy"] == chosen else "–",
            number(r.get("trainable_blocks")),
            number(r.get("accuracy")),
            number(r.get("trigger_control")),
            number(r.get("worst_trigger_control")),
        ]
        for r in pick(report, "freeze", "table") or []
    ]
    words = f"Chosen: {WORDS.get(str(chosen), str(chosen))} trainable; {pick(report, 'freeze', 'reason')}"
    if used is not None and used != chosen:
        words += f" The operator fixed another one by hand (`student.freeze`): {WORDS.get(str(used), str(used))}."
    head = ["Trainable", "", "Blocks", "Balanced accuracy, mean", "Trigger control, mean", "Trigger control, worst"]
    return [
        heading("The choice"),
        text(words),
        table("Freeze policies over the canaries' defended students", head, rows, numeric=(2, 3, 4, 5)),
    ]


def _searches(searches: Sequence[Mapping[str, Any]]) -> list[Block]:
    """What the backdoor gate's own search found on models whose truth is known."""
    rows = [
        [
            f"{humane(s['model'])}, {s['arm']}",
            chip("unsure", "planted") if s["kind"] == "canary" else chip("plain", "clean"),
            measured(s.get("planted_control")) if s.get("planted_control") else "–",
            measured(s.get("scan_control")),
            measured(s.get("patch_control")),
        ]
        for s in searches
    ]
    head = ["Student", "Truth", "Planted trigger's control", "Simple patterns' control", "Best patch's control"]
    words = (
        "The gate's search was run on these students without being told a trigger. What it finds on clean students is "
        "their natural patch control: even an untouched model can be steered."
    )
    caption = "The backdoor gate's search on models whose truth is known (95 % interval)"
    return [heading("The search, tried"), text(words), table(caption, head, rows, numeric=(2, 3, 4))] if rows else []
