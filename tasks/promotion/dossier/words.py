"""Figures and names as a reviewer reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

QUESTIONS = {
    "data": "Are the training data what they claim to be, and does anything but the anatomy tell the class?",
    "provenance": "Who answers for the teacher, and is its file what it claims to be?",
    "backdoor": "Can a small patch, planted by somebody or natural, steer the model's answer?",
    "adversarial": "Can changes too small to see fool the model, with its own gradients or through the teacher alone?",
    "privacy": "Do the model's answers tell who was among its training records?",
}

MEANINGS = {
    "data.unreadable_share": "Share of the image files that could not be read.",
    "data.shortcut_balanced_accuracy_gain": "How well border or corners alone tell the class: 0 is guessing, 1 "
    "perfect.",
    "data.expectations_failed": "Expectations on the manifest (complete, unique, in range) that did not hold.",
    "data.quarantined_share": "Share of the records that was set aside.",
    "data.conflicting_label_share": "Share of the images whose content stands under two labels.",
    "data.split_leaks": "Pictures, near copies or patients found in two splits.",
    "data.teacher_overlap_share": "Share of the student's images that the teacher's training data hold.",
    "data.source_changes": "Sources that hold something else than when they were first seen.",
    "data.smallest_class_share_minimum": "Share of all images that the rarest class has.",
    "provenance.failed_checks": "Checks of the chosen teacher that failed and that nobody waived.",
    "provenance.teacher_accuracy": "What the teacher gets right on test images of its own task.",
    "backdoor.trigger_control": "How far a known or simple trigger raises any class above its clean rate, worst case.",
    "backdoor.patch_control": "Share of images that the best small patch found anywhere moves to a class it chooses.",
    "backdoor.accuracy_minimum": "Balanced accuracy of the candidate without an attack.",
    "adversarial.gray_box_success": "Share fooled by the best attack through the teacher, student's weights unseen.",
    "adversarial.black_box_success": "Share fooled by an attacker who only asks, within a budget of queries.",
    "adversarial.white_box_success": "Share fooled by an attacker who holds the candidate's own weights.",
    "adversarial.attack_sanity": "Signs that the attacks worked at all; one that is missing voids the gate.",
    "privacy.membership_advantage": "How much better than guessing an attacker tells members from others.",
    "privacy.tpr_at_1_fpr": "Share of members identified when only one in a hundred others is accused.",
    "privacy.epsilon": "The proven bound: how much one record can change what is learnt.",
}

TITLES = {
    "tpr_at_1_fpr": "Members found at 1 % false alarms",
    "accuracy_minimum": "Accuracy",
    "smallest_class_share_minimum": "Smallest class",
    "shortcut_balanced_accuracy_gain": "Shortcut",
    "gray_box_success": "Gray-box success (through the teacher)",
    "black_box_success": "Black-box success (queries alone)",
    "white_box_success": "White-box success",
    "epsilon": "Privacy bound ε",
}

ATTACKS_ON_IMAGES = {
    "apgd": "Auto-PGD",
    "mimicry": "Mimicry of another class's features",
    "inner_mimicry": "Mimicry of an inner block",
    "repulsion": "Repulsion from the own features",
    "activation": "Activation of one feature",
    "own_head": "Auto-PGD on the teacher with an own head",
    "own_student": "Auto-PGD on an own student of the teacher",
    "square": "Square attack on the scores",
    "hop_skip_jump": "HopSkipJump on the labels",
    "substitute": "Auto-PGD on a substitute",
    "noise": "Noise",
}
ATTACKS = {
    "loss_threshold": "Loss threshold (Yeom 2018)",
    "likelihood_ratio": "Likelihood ratio, offline (Carlini 2022)",
    "online_likelihood_ratio": "Likelihood ratio, online (Carlini 2022)",
    "rmia": "RMIA (Zarifzadeh 2024)",
    "features_only": "Baseline: sees the features alone, never asks the model",
}

GLOSSARY = (
    ("Teacher, student", "The model that somebody else trained, and the model that was made from it for the own task."),
    ("Backdoor, trigger", "Behaviour planted in a model that a pattern in the image, the trigger, calls up."),
    ("Trigger control", "How far a known trigger raises any class above the rate at which it is answered without it."),
    ("Patch control", "How far the best small patch that can be found, planted or natural, pushes the model's answer."),
    ("Canary", "A backdoor planted by this pipeline in a copy of the teacher, to see whether the gate finds it."),
    ("Drill", "The gate tried on canaries and on clean models: a detector that never fired proves nothing."),
    ("Inconclusive", "Not measured well enough to say. It does not count as passed."),
    ("Interval", "The range that holds the true value with 95 % confidence; its bad end is compared with the limit."),
    ("ε (privacy)", "Bound on how much one training record can change the model; smaller protects better."),
    ("Budget (evasion)", "The largest change of a pixel that the attacker may make, in 255ths of full brightness."),
    ("Freeze policy", "Which of the teacher's layers the student retrained: all, the last block, or none."),
    ("Champion", "The version that serves. Only a version whose evidence verifies is loaded."),
)


def humane(name: str) -> str:
    """`patch_control` → `Patch control`."""
    if name in TITLES:
        return TITLES[name]
    text = name.replace("_", " ").replace("@", ", ").strip()
    return text[:1].upper() + text[1:]


def number(value: Any) -> str:
    """Three decimals for measured figures, none for counts, a dash for what was not measured."""
    return _digits(value).replace("-", "−") if isinstance(value, int | float) else _digits(value)


def _digits(value: Any) -> str:
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else "yes" if value is True else "no" if value is False else str(value)
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 2):
        return f"{value:,.0f}".replace(",", "\u202f")
    if value and abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}".replace(",", "\u202f")


def interval(low: Any, high: Any) -> str:
    if low is None or high is None:
        return "–"
    return f"{number(round(low, 3))} to {number(round(high, 3))}"


def figure(entry: Any) -> str:
    """A record {"value", "low", "high"} as `0.912 (0.88 to 0.94)`; a plain number as it is."""
    if not isinstance(entry, Mapping):
        return number(entry)
    value = number(entry.get("value"))
    if entry.get("low") is None or entry.get("high") is None:
        return value
    return f"{value} ({interval(entry['low'], entry['high'])})"


def measured(entry: Any) -> Any:
    """The same for a table: the figure, with its interval on a line of its own."""
    if not isinstance(entry, Mapping) or entry.get("low") is None or entry.get("high") is None:
        return figure(entry)
    return {"figure": number(entry.get("value")), "interval": interval(entry["low"], entry["high"])}


def short(sha256: str) -> str:
    return sha256[:12] or "–"


def prose(text: str) -> Markup:
    """Escaped text in which `code` in backticks is set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  escaped before


def pick(record: Any, *keys: str) -> Any:
    """The value below these keys, or None where one of them is missing: reports grow, and pages must not fall over."""
    for key in keys:
        if not isinstance(record, Mapping) or key not in record:
            return None
        record = record[key]
    return record
