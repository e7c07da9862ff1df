"""What a gate's stage reports beyond its checks: one function a gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tasks.promotion.dossier.blocks import Block, chip, table, text
from tasks.promotion.dossier.words import figure, humane, measured, number, pick

Report = Mapping[str, Any]


def gate_report(gate: str, report: Report) -> list[Block]:
    """Blocks for `reports/<gate>@<candidate>.json`; none where the gate has no such report."""
    return WRITERS[gate](report) if report and gate in WRITERS else []


def adversarial(report: Report) -> list[Block]:
    """Success and accuracy by threat model and budget."""
    blocks: list[Block] = []
    judged = pick(report, "judged") or []
    rows = []
    for curve in (pick(report, "curves") or {}).values():
        for point in curve["points"]:
            rows.append(
                [
                    f"{curve['title']}, {point['budget']}",
                    measured(point["success"]),
                    measured(point["targeted_success"]) if point["targeted_success"] else "–",
                    measured(point["robust_accuracy"]),
                ]
            )
    clean = figure(pick(report, "clean_accuracy"))
    blocks.append(
        text(
            f"{number(pick(report, 'images'))} test images were attacked, with {number(pick(report, 'steps'))} steps "
            f"each; without an attack {clean} of them are answered right. Random noise of the same size is the "
            "yardstick."
        )
    )
    head = ["Attacker and budget", "Fooled, of those right before", "Sent to the wanted class", "Accuracy under attack"]
    blocks.append(table("What each attacker achieves (95 % interval)", head, rows, numeric=(1, 2, 3)))
    sanity = [
        [s["name"], chip("unsure", "not seen") if s["holds"] is None else _yes_no(s["holds"]), s["figure"]]
        for s in pick(report, "sanity") or []
    ]
    if sanity:
        caption = "Signs that the attacks themselves worked: a weak attack proves no strength"
        blocks.append(table(caption, ["Condition", "Holds", "Figure"], sanity))
    if judged and "pgd_success" not in judged:
        blocks.append(text("The white box is reported, not judged: the policy holds no limit for it."))
    return blocks


def privacy(report: Report) -> list[Block]:
    """Each membership attack, the baseline that never asks the model, classes, and the proof where there is one."""
    blocks = [text(words)] if (words := pick(report, "in_words")) else []
    attacks = [*(pick(report, "attacks") or []), *([b] if (b := pick(report, "baseline")) else [])]
    rows = [
        [
            ATTACKS.get(a["attack"], humane(a["attack"])),
            measured(a["auc"]),
            measured(a["membership_advantage"]),
            *(measured(rate["tpr"]) for rate in a["tpr_at_fpr"]),
        ]
        for a in attacks
    ]
    if rows:
        rates = [f"Members found at {100 * rate['fpr']:.3g} % false alarms" for rate in attacks[0]["tpr_at_fpr"]]
        head = ["Attack", "AUC (0.5 is guessing)", "Membership advantage", *rates]
        blocks.append(table("Membership attacks (95 % interval)", head, rows, numeric=range(1, len(head))))
    classes = [
        [s["name"], number(s["n_members"]), number(s["n_non_members"]), measured(s.get("membership_advantage"))]
        for s in pick(report, "subgroups") or []
    ]
    if classes:
        head = ["Class", "Members", "Others", "Membership advantage"]
        blocks.append(table("Exposure by class, strongest attack", head, classes, numeric=(1, 2, 3)))
    if proof := pick(report, "proof"):
        blocks.append(text(_proof(proof)))
    return blocks


def _proof(proof: Report) -> str:
    if proof.get("epsilon") is None:
        return f"No privacy bound is proven for this file: {proof.get('why')}."
    return (
        f"Proven for this file: ε = {number(proof['epsilon'])} at δ = {number(proof.get('delta'))}, for "
        f"{number(proof.get('records'))} training records; no membership attack whatever can gain more than "
        f"{number(proof.get('advantage_ceiling'))}."
    )


ATTACKS = {
    "loss_threshold": "Loss threshold",
    "likelihood_ratio": "Likelihood ratio against reference heads",
    "features_only": "Baseline: sees the features alone, never asks the model",
}


def _yes_no(holds: bool) -> dict[str, str]:
    return chip("passed", "yes") if holds else chip("failed", "no")


WRITERS: dict[str, Callable[[Report], list[Block]]] = {"adversarial": adversarial, "privacy": privacy}
