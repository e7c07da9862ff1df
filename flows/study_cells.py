"""The work of the study's cells: data and teachers from disk, figures out. Each process runs one cell at a time."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows.cells import cell_key
from tasks.backdoor.study.cells import CLEAN, AlphaCell, PruningCell, RecoveryCell, StripCell, StudentCell, TeacherCell
from tasks.backdoor.study.experiments import (
    Taught,
    choose_alpha,
    measure,
    prune_teacher,
    recover_triggers,
    strip_scores,
    train_student,
    train_teacher,
    white,
)
from tasks.backdoor.study.published import SIDES
from tasks.backdoor.triggers import Trigger, load_trigger, save_trigger
from tasks.backdoor.zoo.plan import ZooTeacher
from tasks.data.dataset import Dataset, load_dataset
from tasks.files import writing
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.checkpoints import load_model, save_model
from tasks.models.device import current_device, use_device

STORE = Path(".gatehouse/study")  # below the folder that the flow was started in
VERSION = "1"  # raise it when a change of the code changes figures
TRIGGER = "trigger.safetensors"
Labelled = tuple[np.ndarray, np.ndarray]


def work(cell: Any) -> dict[str, Any]:
    """Train, attack, defend and measure what one cell names; returns its figures."""
    for kind, act in ACTS.items():
        if isinstance(cell, kind):
            return act(cell) | {"hardware": hardware()}
    raise TypeError(f"no work for a {type(cell).__name__}")


def work_on_cuda(cell: Any) -> dict[str, Any]:
    """The same with feature blocks on the CUDA device: another name, because its figures are kept apart."""
    use_device("cuda")
    return work(cell)


def hardware() -> str:
    gpu = torch.cuda.get_device_name() if current_device().type == "cuda" else "no GPU used"
    return f"{os.cpu_count()} cores {platform.machine()}, {gpu}, 1 thread a cell"


def teacher_of(cell: TeacherCell) -> Taught:
    """The teacher from the store; trained and stored first where it is missing."""
    if cell.attack == CLEAN:
        cell = cell.clean()  # what it is measured with later does not make it another teacher
    made_by = work_on_cuda if current_device().type == "cuda" else work
    folder = STORE / "teachers" / cell_key(cell, made_by, VERSION)
    if not folder.exists():
        taught = _train(cell)
        with writing(folder) as temporary:
            temporary.mkdir()
            notes = {} if taught.success is None else {"success": repr(taught.success)}
            save_model(temporary, taught.model, spec_of(cell), notes=notes)
            if taught.trigger is not None:
                save_trigger(temporary / TRIGGER, taught.trigger)
    # Read back in either case: what later cells are given is what lies in the store.
    model, record = load_model(folder)
    if cell.attack == CLEAN:
        return Taught(model, None, None)
    return Taught(model, load_trigger(folder / TRIGGER), float(record.notes["success"]))


def _train(cell: TeacherCell) -> Taught:
    teacher_task, student_task = study_data(cell.data)
    clean = None
    if cell.attack in ("imc", "latent"):
        clean = teacher_of(cell.clean()).model
    return train_teacher(
        cell,
        spec_of(cell),
        teacher_task.part("train", cell.images, cell.seed),
        teacher_task.part("val", cell.val_images, cell.seed),
        clean=clean,
        # The attacker's images of the target class are none that the victim trains on.
        target_images=student_task.part("val"),
        student_classes=student_task.classes,
    )


@lru_cache(maxsize=1)
def study_data(digest: str) -> tuple[Dataset, Dataset]:
    folder = STORE / "data" / digest
    return load_dataset(folder / "teacher_task"), load_dataset(folder / "student_task")


def spec_of(cell: TeacherCell | ZooTeacher) -> ModelSpec:
    """What a teacher is: its architecture, for the teacher task's classes and images."""
    teacher_task, _ = study_data(cell.data)
    return ModelSpec(
        architecture=cell.architecture,
        classes=teacher_task.classes,
        channels=teacher_task.images.shape[1],
        image_size=cell.image_size,
    )


def _triggers(cell: TeacherCell, taught: Taught) -> dict[int, Trigger]:
    """The teacher's own trigger by its side; for a clean one the study's white squares of every side."""
    if taught.trigger is not None:
        return {cell.side: taught.trigger}
    return {side: white(side, cell.image_size, study_data(cell.data)[0].images.shape[1]) for side in SIDES}


def _teacher(cell: TeacherCell) -> dict[str, Any]:
    taught, task = teacher_of(cell), study_data(cell.data)[0]
    figures = measure(
        taught.model, _triggers(cell, taught), task.part("test"), target=cell.target, classes=task.classes
    )
    return figures | {"attackers_success": taught.success}


def trained_student(cell: StudentCell, teacher: Classifier) -> Classifier:
    """The cell's student, from its seed's sample of the student task."""
    task, seed = study_data(cell.teacher.data)[1], cell.teacher.seed
    parts = task.part("train", cell.images, seed), task.part("val", cell.val_images, seed)
    return train_student(cell, teacher, len(task.classes), *parts)


def _measured_student(cell: StudentCell, teacher: Classifier, taught: Taught) -> dict[str, Any]:
    task = study_data(cell.teacher.data)[1]
    return measure(
        trained_student(cell, teacher),
        _triggers(cell.teacher, taught),
        task.part("test", cell.test_images),
        target=cell.teacher.target,
        classes=task.classes,
    )


def _student(cell: StudentCell) -> dict[str, Any]:
    taught = teacher_of(cell.teacher)
    return _measured_student(cell, taught.model, taught)


def _pruning(cell: PruningCell) -> dict[str, Any]:
    taught, task = teacher_of(cell.teacher), study_data(cell.teacher.data)[0]
    parts = task.part("train", cell.images, cell.teacher.seed), task.part("val", cell.teacher.val_images)
    model, channels = prune_teacher(cell, taught.model, *parts)
    if cell.student is not None:
        figures = _measured_student(cell.student, model, taught)
    else:
        triggers = _triggers(cell.teacher, taught)
        figures = measure(model, triggers, task.part("test"), target=cell.teacher.target, classes=task.classes)
    return figures | {"channels_cut": channels}


def _alpha(cell: AlphaCell) -> dict[str, Any]:
    taught, task = teacher_of(cell.student.teacher), study_data(cell.student.teacher.data)[1]
    assert taught.trigger is not None
    return choose_alpha(cell, trained_student(cell.student, taught.model), taught.trigger, task.part("val"))


def _strip(cell: StripCell) -> dict[str, Any]:
    teacher = cell.student.teacher
    taught, task = teacher_of(teacher), study_data(teacher.data)[1]
    assert taught.trigger is not None
    return strip_scores(
        cell,
        trained_student(cell.student, taught.model),
        taught.trigger,
        task.part("val"),
        task.part("test"),
        target_class=task.classes.index(teacher.target),
    )


def _recovery(cell: RecoveryCell) -> dict[str, Any]:
    taught, task = teacher_of(cell.teacher), study_data(cell.teacher.data)[0]
    return recover_triggers(cell, taught.model, taught.trigger, task.part("test"), task.classes)


ACTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    TeacherCell: _teacher,
    StudentCell: _student,
    PruningCell: _pruning,
    AlphaCell: _alpha,
    StripCell: _strip,
    RecoveryCell: _recovery,
}
