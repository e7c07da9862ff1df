"""`vet` on every teacher of the zoo, as its user would call it: a card, and 600 clean images in class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import vet, vetting
from flows.cells import cell_key
from flows.offering import class_folders, offered, said
from flows.stage import Context
from flows.study_cells import hardware, study_data
from flows.zoo_cells import STORE, VERSION, spec_of, teacher_of, work
from tasks.backdoor.zoo.detection import summary
from tasks.backdoor.zoo.plan import CLEAN, ZooTeacher
from tasks.files import read_json
from tasks.teachers.offers import CARD

IMAGES = 600
REPORTS = "2"  # of vet's report; raise it when its code changes what a report says of the same scores


def detect(context: Context, teachers: Sequence[ZooTeacher], *, workers: int) -> dict[str, Any]:
    """Vet the teachers that are not vetted yet; returns the table over all of them, JSON-ready."""
    rows, calibrations = [], {}
    for done, teacher in enumerate(teachers, start=1):
        out = STORE / "vetted" / cell_key(teacher, work, f"{VERSION} {vetting.VERSION} {REPORTS}") / "vet.json"
        if not out.exists():
            vet.vet(
                _card(teacher), _clean_set(teacher, context.params.run.seed), out,
                images=IMAGES, seed=context.params.run.seed, clean=vetting.CLEAN, canaries=vetting.CANARIES,
                workers=workers, console=context.console,
            )  # fmt: skip
        found = read_json(out)
        rows.append(_row(teacher, found))
        calibrations[teacher.architecture] = _calibration(found)  # the references are the same for all of them
        context.progress(done, len(teachers), f"vetted: {teacher.name}")
    return {
        "title": "Was this teacher tampered with? The zoo's teachers judged beside reference models trained apart",
        "calibrations": calibrations,
        "hardware": hardware(),
        "summary": summary(rows, seed=context.params.run.seed),
        "rows": rows,
    }


def _calibration(found: dict[str, Any]) -> dict[str, Any]:
    counts = {k: len(found["references"][k]) for k in ("clean", "canaries")}
    return counts | {"images": found["images"]["used"], "power": found["power"], "false_alarms": found["false_alarms"]}


def _row(teacher: ZooTeacher, found: dict[str, Any]) -> dict[str, Any]:
    return teacher.as_json() | {"backdoored": teacher.attack != CLEAN} | said(found)


def _card(teacher: ZooTeacher) -> Path:
    """Of the teacher as somebody would offer it, written once."""
    folder = STORE / "offers" / cell_key(teacher, work, VERSION)
    return folder / CARD if folder.exists() else offered(folder, teacher_of(teacher)[0], spec_of(teacher))


def _clean_set(teacher: ZooTeacher, seed: int) -> Path:
    """Validation images of the teacher's task, which no teacher was trained on, as class folders of PNG files."""
    root = STORE / "clean_set" / teacher.data
    if not root.exists():
        task, _ = study_data(teacher.data)
        class_folders(root, *task.part("val", IMAGES, seed), task.classes)
    return root
