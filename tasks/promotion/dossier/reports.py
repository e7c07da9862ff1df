"""What the stages reported, as far as it is there: JSON by name, gate results by name, figures by folder."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import GatehouseError
from tasks.files import read_json
from tasks.gate import GateResult
from tasks.promotion.decision import result_names
from tasks.risk import Policy, load_policy

CANDIDATES = ("student", "private_student")


@dataclass(frozen=True)
class Figure:
    """A picture as a data URI, with the words that stand for it."""

    source: str
    caption: str
    wide: bool  # more than twice as wide as high: it gets a line of its own


@dataclass(frozen=True)
class Reports:
    """Access to a `reports` folder. Everything is asked for by name, so that dependencies can be listed."""

    folder: Path

    def json(self, name: str) -> dict[str, Any]:
        """`reports/<name>.json`, or an empty record where the stage has not written it."""
        path = self.folder / f"{name}.json"
        content = read_json(path) if path.exists() else {}
        return content if isinstance(content, dict) else {}

    def policy(self) -> Policy:
        return load_policy(self.folder / "policy.json")

    def gates(self, candidate: str) -> dict[str, GateResult | str]:
        """Gate → its result for a candidate, or a sentence that says why there is none."""
        names = tuple(rule.gate for rule in self.policy().gates)
        found: dict[str, GateResult | str] = {}
        for gate, name in zip(names, result_names(names, candidate), strict=True):
            try:
                found[gate] = GateResult.read(self.folder / "gates" / name)
            except GatehouseError as error:
                found[gate] = str(error)
        return found

    def figures(self, name: str) -> list[Figure]:
        """PNG figures of `reports/figures/<name>/`, in the order of their names."""
        return [embedded(path) for path in sorted((self.folder / "figures" / name).glob("*.png"))]

    def figure(self, name: str, file: str) -> Figure | None:
        """One figure of `reports/figures/<name>/`, where it is there."""
        path = self.folder / "figures" / name / file
        return embedded(path) if path.name == file and path.exists() else None


def embedded(path: Path, caption: str = "") -> Figure:
    """A PNG file as part of a page; the caption is that of figures of this name where none is given."""
    data = path.read_bytes()
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))  # of a PNG's header
    return Figure(
        source="data:image/png;base64," + base64.b64encode(data).decode(),
        caption=caption or CAPTIONS.get(path.stem, path.stem.replace("_", " ").replace("-", " ").capitalize()),
        wide=width > 2 * height,
    )


CAPTIONS = {
    "contact_teacher_task": "Contact sheet of the teacher's task: images as the models see them, by class",
    "contact_student_task": "Contact sheet of the student's task: images as the models see them, by class",
    "classes_teacher_task": "Images a class and split, teacher's task",
    "classes_student_task": "Images a class and split, student's task",
    "shortcut": "How well border and corners alone tell the class, with and without remedies",
    "learning_curve": "Learning curve: loss and accuracy after each epoch",
    "confusion": "Confusion on the test split",
    "reliability": "Reliability: how often an answer is right, against how sure it claims to be",
    "accuracy_against_budget": "Accuracy under attack against the budget",
    "success_by_freeze": "Fooled through the teacher, by what the student retrained",
    "teacher_named": "Whose student? Spread of the answers to blank images: the least names the teacher",
    "1_worst_patches": "The worst patch found for each class: an image before and after",
    "2_transfer": "What is left of each canary's backdoor in its students",
    "3_strip": "The run-time filter: entropy of clean and of triggered images",
    "4_scores": "Patch control of the drill's models, with the candidate and the threshold",
    "5_triggers": "Triggers of the canaries, and what the search found on their students without them",
    "6_filters": "Run-time filters on living canaries: triggered inputs refused against clean ones refused",
    "roc": "Membership attacks: members found against false alarms; the diagonal is guessing",
    "images": "What the attacks look like: an image, what it became, and the difference, enlarged",
}
