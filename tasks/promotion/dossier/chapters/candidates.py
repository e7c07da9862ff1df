"""Candidates: what each is worth without an attack, how it was trained, and what its training data look like to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.promotion.dossier.blocks import Block, absent, chip, figures, heading, table, text
from tasks.promotion.dossier.reports import CANDIDATES, Reports
from tasks.promotion.dossier.words import humane, measured, number, pick

FIGURES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy (mean over classes)",
    "auc": "AUC (one class against the rest)",
    "calibration_error": "Calibration error (0 is best)",
}
METHODS = {"activation_clustering": "Activation clustering", "spectral_signatures": "Spectral signatures"}


def candidates(reports: Reports, candidate: str) -> list[Block]:
    """Both candidates side by side, then each by itself; the one to promote comes first."""
    order = (candidate, *(c for c in CANDIDATES if c != candidate))
    known = {name: found for name in order if (found := reports.json(name))}
    blocks: list[Block] = []
    if known:
        blocks += _side_by_side(known, candidate)
    for name in order:
        blocks.append(heading(humane(name)))
        if name not in known:
            blocks.append(absent(f"The {humane(name).lower()} stage has not reported (`reports/{name}.json`)."))
            continue
        blocks += _training(known[name])
        blocks += _defences(known[name])
        if pictures := reports.figures(name):
            blocks.append(figures(pictures))
        blocks += _confusion(known[name])
        blocks += _inspection(known[name])
    return blocks


def _side_by_side(known: Mapping[str, Mapping[str, Any]], candidate: str) -> list[Block]:
    rows: list[list[Any]] = [
        [title, *(measured(pick(report, key)) for report in known.values())] for key, title in FIGURES.items()
    ]
    classes = dict.fromkeys(c for report in known.values() for c in pick(report, "recall") or {})
    rows += [[f"Recall of {c}", *(measured(pick(report, "recall", c)) for report in known.values())] for c in classes]
    rows.append(["Test images", *(number(pick(report, "n")) for report in known.values())])
    if any(pick(report, "epsilon") is not None for report in known.values()):
        rows.append(["Privacy bound ε", *(_epsilon(report) for report in known.values())])
    marked = [f"{humane(name)}{', to promote' if name == candidate else ''}" for name in known]
    caption = "On the test split, without an attack (95 % interval)"
    return [table(caption, ["Figure", *marked], rows, numeric=range(1, len(known) + 1))]


def _epsilon(report: Mapping[str, Any]) -> str:
    epsilon = pick(report, "epsilon")
    return "none proven" if epsilon is None else number(epsilon)


def _training(report: Mapping[str, Any]) -> list[Block]:
    words = []
    if (policy := pick(report, "freeze", "policy")) is not None:
        words.append(f"Trainable features: {policy} ({str(pick(report, 'freeze', 'reason')).rstrip('.')}).")
    if (trainable := pick(report, "parameters", "trainable")) is not None:
        words.append(f"{number(trainable)} parameters trained, {number(pick(report, 'parameters', 'frozen'))} frozen.")
    if (epochs := pick(report, "epochs")) is not None:
        best = pick(report, "best_epoch")
        words.append(f"{number(epochs)} epochs{f'; the weights of epoch {best} were kept' if best else ''}.")
    images = pick(report, "images")
    if isinstance(images, Mapping):
        words.append("Images: " + ", ".join(f"{number(n)} {split}" for split, n in images.items()) + ".")
    if (heat := pick(report, "temperature", "value")) is not None:
        after = pick(report, "temperature", "calibration_error_after")
        words.append(
            f"A temperature of {number(heat)} on the scores would bring the calibration error to {number(after)}; it "
            "is reported, not applied."
        )
    return [text(" ".join(words))] if words else []


def _defences(report: Mapping[str, Any]) -> list[Block]:
    """What the recipe trains against, and which defences were tried before this one."""
    recipe = pick(report, "defences", "recipe") or {}
    shares = [
        f"{what} on {100 * recipe[key]:.0f} % of the images"
        for key, what in (
            ("patch_probability", "random patches"),
            ("patch_adversarial", "optimised patches"),
            ("overlay_probability", "overlays instead"),
        )
        if recipe.get(key)
    ]
    if recipe.get("adversarial_budget"):
        share, budget = recipe.get("adversarial_share", 1.0), 255 * recipe["adversarial_budget"]
        shares.append(f"adversarial examples of up to {budget:.3g}/255 on {100 * share:.0f} %")
    if recipe.get("neuron_distance"):
        shares.append("a penalty on features close to the teacher's")
    if recipe.get("fresh"):
        shares.append("a start from fresh weights")
    if (guard := pick(report, "defences", "guard")) not in (None, "none"):
        shares.append(f"the input guard {humane(guard).lower()}")
    blocks: list[Block] = [text(f"Defences: {', '.join(shares)}.")] if shares else []
    if tried := pick(report, "defences", "tried"):
        rows = [[humane(t["name"]), number(t["fooled_through_teacher"])] for t in tried]
        caption = f"Defences tried in order; {humane(pick(report, 'defences', 'kept'))} was kept"
        blocks.append(table(caption, ["Defence", "Fooled through the teacher, validation images"], rows, numeric=(1,)))
    return blocks


def _confusion(report: Mapping[str, Any]) -> list[Block]:
    classes, counts = pick(report, "confusion", "classes"), pick(report, "confusion", "counts")
    if not classes or not counts:
        return []
    rows = [[name, *(number(n) for n in row)] for name, row in zip(classes, counts, strict=True)]
    head = ["True class", *(f"answered {name}" for name in classes)]
    return [table("Confusion on the test split (images)", head, rows, numeric=range(1, len(classes) + 1))]


def _inspection(report: Mapping[str, Any]) -> list[Block]:
    found = pick(report, "inspection", "findings")
    if not found:
        return []
    rows = []
    for f in found:
        suspicious = f.get("suspicious") or 0
        mark = chip("unsure", f"{number(suspicious)} suspicious") if suspicious else chip("passed", "none")
        word = "too few images" if f.get("score") is None else mark
        method = METHODS.get(f["method"], humane(f["method"]))
        rows.append(
            [f"{f['label']}: {method}", word, number(f.get("score")), number(f.get("threshold")), number(f.get("n"))]
        )
    total = len(pick(report, "inspection", "suspicious") or [])
    words = (
        "The training images were looked at through the finished model, class by class: poisoned images tend to form a "
        f"small group of their own. {number(total) if total else 'No'} image{'' if total == 1 else 's'} stood out. "
        "Neither method sees a trigger that the model did not learn; what stands out may also be an unusual patient."
    )
    head = ["Class and method", "Finding", "Score", "Threshold", "Images"]
    return [text(words), table("Inspection of the training data for poison", head, rows, numeric=(2, 3, 4))]
