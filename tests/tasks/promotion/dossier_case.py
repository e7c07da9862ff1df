"""A reports folder as a run leaves it, made by hand, and the page that is rendered from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from promotion_case import Case, make_case, result

from tasks.promotion.dossier import write_dossier
from tasks.promotion.evidence import ENVELOPE, _statement
from tasks.promotion.statement import Predicate
from tasks.promotion.trust import only

REPORTS = Path(__file__).parent / "example_reports"
FIGURES = {
    "data": ("contact_student_task", "shortcut"),
    "backdoor@student": ("1_worst_patches",),
    "adversarial@student": ("accuracy_against_budget",),
}


def write_page(root: Path, kind: str) -> Path:
    """`promoted` and `refused` with every report there, `bare` with none; returns the page."""
    case = make_case(root)
    if kind != "bare":
        add_reports(root)
    if kind == "refused":
        spoil(case)
    decision = case.decide()
    case.attest(decision)
    path = root / "reports" / "dossier.html"
    version = None if kind == "refused" else "3"
    write_dossier(
        path,
        root=root,
        decision=decision,
        predicate=predicate(case),
        version=version,
        model_name="gatehouse-student",
        signed_by="5" * 64,
    )
    return path


def predicate(case: Case) -> Predicate:
    path = case.evidence / ENVELOPE
    return _statement(path.read_bytes(), only(case.key.public_key()), source=path)[0].predicate


def spoil(case: Case) -> None:
    """One check fails, one was not measured, one gate judged something else."""
    own = case.results["backdoor"]
    failed = own.checks[0].model_copy(update={"observed": 0.31, "ci": (0.25, 0.38)})
    case.put(own.model_copy(update={"checks": (failed, *own.checks[1:])}))
    own = case.results["privacy"]
    unmeasured = own.checks[0].model_copy(update={"observed": None, "ci": None})
    case.put(own.model_copy(update={"checks": (unmeasured, *own.checks[1:])}))
    case.put(result(case.policy, "adversarial", "9" * 64))


def add_reports(root: Path) -> None:
    for path in REPORTS.glob("*.json"):
        shutil.copy(path, root / "reports" / path.name)
    for folder, names in FIGURES.items():
        for name in names:
            path = root / "reports" / "figures" / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.tile(np.linspace(0, 255, 900, dtype=np.uint8), (400, 1))).save(path)
