"""What a gate's stage reports beyond its checks: one function a gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tasks.promotion.dossier.blocks import Block, chip, table, text
from tasks.promotion.dossier.words import ATTACKS, ATTACKS_ON_IMAGES, figure, humane, measured, number, pick

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
                    ATTACKS_ON_IMAGES.get(point["strongest"], humane(point["strongest"])),
                    measured(point["success"]),
                    measured(point["robust_accuracy"]),
                    number(point["dssim"]),
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
    head = [
        "Attacker and budget",
        "Strongest attack",
        "Fooled, of those right before",
        "Accuracy under attack",
        "DSSIM",
    ]
    caption = "What each attacker achieves (95 % interval), and how visible it is (structural dissimilarity, 0 to 1)"
    blocks.append(table(caption, head, rows, numeric=(2, 3, 4)))
    blocks += _strongest(report)
    attacks = [
        [ATTACKS_ON_IMAGES.get(name, humane(name)), measured(share)]
        for name, share in (pick(report, "attacks") or {}).items()
    ]
    if attacks:
        caption = "Each attack through the teacher or by queries, at the largest budget (95 % interval)"
        blocks.append(table(caption, ["Attack", "Fooled, of those right before"], attacks, numeric=(1,)))
    blocks += _fingerprint(report)
    sanity = [
        [humane(s["name"]), chip("unsure", "not seen") if s["holds"] is None else _yes_no(s["holds"]), s["figure"]]
        for s in pick(report, "sanity") or []
    ]
    if sanity:
        caption = "Signs that the attacks themselves worked: a weak attack proves no strength"
        blocks.append(table(caption, ["Condition", "Holds", "Figure"], sanity))
    unjudged = [
        curve["title"].split(":")[0].lower()
        for name, curve in (pick(report, "curves") or {}).items()
        if judged and name != "noise" and f"{name}_success" not in judged
    ]
    if unjudged:
        blocks.append(text(f"Reported, not judged, since the policy holds no limit for it: {', '.join(unjudged)}."))
    return blocks


def _strongest(report: Report) -> list[Block]:
    """What decides the gray box, in a sentence, beside what the attack of the study alone would have said."""
    points, attacks = pick(report, "curves", "gray_box", "points"), pick(report, "attacks") or {}
    if not points or "mimicry" not in attacks:
        return []
    last, noise = points[-1], (pick(report, "curves", "noise", "points") or [{}])[-1]
    title = ATTACKS_ON_IMAGES.get(last["strongest"], humane(last["strongest"]))
    return [
        text(
            f"Through the teacher, the strongest attack at {last['budget']} is “{title}”: it fools "
            f"{figure(last['success'])} of the images that were right. Mimicry alone (study, 3.2.1) would have said "
            f"{figure(attacks['mimicry'])}, and random noise {figure(noise.get('success'))}."
        )
    ]


def _fingerprint(report: Report) -> list[Block]:
    """Whether answers alone tell the teacher, which is the first step of every attack through it."""
    asked = pick(report, "fingerprint", "students")
    if not asked:
        return []
    own, networks = asked[-1], list(asked[-1]["dispersions"])
    found = "name its teacher" if own["named"] == networks[0] else f"point at another network ({own['named']})"
    queries = number(pick(report, "fingerprint", "queries"))
    return [
        text(
            f"Asked {queries} pictures made for {len(networks)} networks, the candidate's answers {found}. A student "
            "that copied the teacher's features gives it away; the others of the line-up are the drill's."
        )
    ]


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


def backdoor(report: Report) -> list[Block]:
    """What was done, each source's control, the patches by class beside natural control, and the run-time filter."""
    attempts = pick(report, "attempts") or []
    final: Report = next((a for a in attempts if a["name"] == pick(report, "final")), {})
    blocks: list[Block] = [text(f"Mitigation: {pick(report, 'mitigation')}")]
    if len(attempts) > 1:
        rows = [
            [
                humane(a["name"]),
                chip("passed", "passes") if a["passes"] else chip("failed", "does not pass"),
                *(measured(pick(a, key)) for key in ("trigger_control", "patch_control", "balanced_accuracy")),
            ]
            for a in attempts
        ]
        head = ["Model", "Outcome", "Trigger control", "Patch control", "Balanced accuracy"]
        blocks.append(table("Before and after mitigation (95 % interval)", head, rows, numeric=(2, 3, 4)))
    sources = [[humane(name), measured(f)] for name, f in (pick(final, "trigger_control_by_source") or {}).items()]
    if sources:
        caption = "Trigger control by source: the canaries' triggers, and simple patterns (95 % interval)"
        blocks.append(table(caption, ["Source", "Control"], sources, numeric=(1,)))
    return [
        *blocks,
        *_reactivation(report),
        *_patches(report, final),
        *_strip(pick(report, "strip") or {}),
        *_filters(report),
    ]


def _reactivation(report: Report) -> list[Block]:
    """What a few steps of fine-tuning with little poison wake in the candidate, beside models without a backdoor."""
    rows = []
    for name, entry in (pick(report, "reactivation") or {}).items():
        models = {"candidate": pick(entry, "candidate"), **(pick(entry, "references") or {})}
        rows += [
            [humane(name), humane(model), measured(pick(r, "before")), measured(pick(r, "after"))]
            for model, r in models.items()
        ]
    caption = "Re-activation: control before and after a few poisoned steps; the speed beside clean models counts"
    return [table(caption, ["Trigger", "Model", "Before", "After"], rows, numeric=(2, 3))] if rows else []


def _patches(report: Report, final: Report) -> list[Block]:
    classes = pick(report, "classes") or []
    by_class = pick(final, "search", "patch", "by_class") or []
    patches = pick(final, "search", "patch", "patches") or []
    sides = pick(report, "inversion", "smallest_sides") or [None] * len(classes)
    if not len(classes) == len(by_class) == len(patches) == len(sides):
        return []
    rows = [
        [
            f"To {name}",
            number(float(control)),
            f"{humane(patch['pattern'])}, {str(patch['place']).replace('_', ' ')}",
            number(patch["side"]),
            number(side) if side is not None else "none found",
        ]
        for name, control, patch, side in zip(classes, by_class, patches, sides, strict=True)
    ]
    natural = [number(pick(c, "patch_control", "value")) for c in pick(report, "natural_patch_control") or []]
    words = (
        "Clean reference models of the same kind, searched in the same way, have a patch control of "
        f"{', '.join(natural)}: what stands above that is this candidate's own."
    )
    head = ["Direction", "Control, held-out images", "Patch and place", "Side (pixels)", "Smallest square that works"]
    blocks: list[Block] = [table("The worst patch found for each class", head, rows, numeric=(1, 3, 4))]
    return [*blocks, text(words)] if natural else blocks


def _strip(strip: Report) -> list[Block]:
    if not strip:
        return []
    groups = [(humane(name), f) for name, f in (pick(strip, "canaries") or {}).items()]
    groups += [("Candidate, trigger of " + name, f) for name, f in (pick(strip, "candidate") or {}).items()]
    rows = [
        [name, measured(pick(f, "auroc")), measured(pick(f, "refused")) if pick(f, "refused") else "–"]
        for name, f in groups
    ]
    calibrated = (
        "calibrated on the canaries" if pick(strip, "calibrated") else "not calibrated: no canary survived training"
    )
    words = (
        "The run-time filter STRIP blends an input with clean images and refuses it where the answers hardly change. "
        f"Blending {number(pick(strip, 'alpha'))}, {calibrated}; of clean images it refuses "
        f"{figure(pick(strip, 'false_refusals'))}. It is information for serving, and decides nothing here."
    )
    head = ["Model and trigger", "AUROC (0.5 is guessing)", "Triggered images refused"]
    blocks: list[Block] = [text(words)]
    return (
        [*blocks, table("How well STRIP tells triggered images (95 % interval)", head, rows, numeric=(1, 2))]
        if rows
        else blocks
    )


FILTERS = {
    "deviation": "Features far from those of clean images",
    "scaling": "Answers that outlast amplification",
    "strip": "STRIP",
    "occlusion": "One small place decides the answer",
}


def _filters(report: Report) -> list[Block]:
    """All run-time filters side by side, and the one to use."""
    filters = pick(report, "input_filters", "filters") or {}
    if not filters:
        return []
    rows = []
    for name, row in filters.items():
        canaries = [number(pick(f, "auroc", "value")) for f in (pick(row, "canaries") or {}).values()]
        own = [number(pick(f, "auroc", "value")) for f in (pick(row, "candidate") or {}).values()]
        refusals = measured(pick(row, "false_refusals"))
        rows.append([FILTERS.get(name, name), ", ".join(canaries) or "–", ", ".join(own) or "–", refusals])
    chosen = str(pick(report, "input_filters", "chosen"))
    why = (
        "of the best AUROC on the canaries, or the cheapest within .01 of it"
        if pick(report, "input_filters", "calibrated")
        else "the cheapest: no canary survived training to compare them on"
    )
    head = ["Filter of inputs", "AUROC, canaries", "AUROC, candidate", "Clean test images refused"]
    words = f"To use at run time: {FILTERS.get(chosen, chosen).lower() if chosen != 'strip' else 'STRIP'}, {why}."
    return [table("Run-time filters side by side", head, rows, numeric=(3,)), text(words)]


def _proof(proof: Report) -> str:
    if proof.get("epsilon") is None:
        return f"No privacy bound is proven for this file: {proof.get('why')}."
    return (
        f"Proven for this file: ε = {number(proof['epsilon'])} at δ = {number(proof.get('delta'))}, for "
        f"{number(proof.get('records'))} training records; no membership attack whatever can gain more than "
        f"{number(proof.get('advantage_ceiling'))}."
    )


def _yes_no(holds: bool) -> dict[str, str]:
    return chip("passed", "yes") if holds else chip("failed", "no")


WRITERS: dict[str, Callable[[Report], list[Block]]] = {
    "backdoor": backdoor,
    "adversarial": adversarial,
    "privacy": privacy,
}
