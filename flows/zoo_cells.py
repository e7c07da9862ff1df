"""The work of the zoo's cells: a teacher trained and kept, and what the pipeline makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.cells import cell_key
from flows.study_cells import hardware, spec_of, study_data
from tasks.backdoor.attacks.plant import plant
from tasks.backdoor.drill import student_of, teacher_training
from tasks.backdoor.mitigation import mitigation_training
from tasks.backdoor.reactivation import reactivate
from tasks.backdoor.study.published import IMAGE_SIDE
from tasks.backdoor.triggers import Trigger, load_trigger, pixels, save_trigger, square
from tasks.backdoor.zoo.outvoted import outvote
from tasks.backdoor.zoo.plan import CLEAN, SIZES, Sizes, ZooTeacher
from tasks.backdoor.zoo.protect import Bench, measure_teacher, protect
from tasks.files import writing
from tasks.models.architectures import Classifier, build
from tasks.models.checkpoints import load_model, save_model
from tasks.models.training import fit
from tasks.params import Backdoor, Student

STORE = Path(".gatehouse/zoo")
VERSION = "1"  # raise it when a change of the code changes figures
TRIGGER = "trigger.safetensors"
SEARCH_IMAGES, VAL_IMAGES = 128, 1200


@dataclass(frozen=True)
class Taught:
    """Train a teacher and measure it on its own task."""

    teacher: ZooTeacher

    @property
    def name(self) -> str:
        return self.teacher.name


@dataclass(frozen=True)
class Protected:
    """Send a teacher through the pipeline. The sections are of params.yaml as JSON, the thresholds of the policy."""

    teacher: ZooTeacher
    sizes: Sizes
    student: str
    backdoor: str
    thresholds: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        return self.teacher.name


@dataclass(frozen=True)
class Awoken:
    """Put a clean teacher's student to the re-activation test with another teacher's trigger, towards `target`."""

    teacher: ZooTeacher  # whose trigger it is
    clean: ZooTeacher
    target: int
    sizes: Sizes
    student: str
    backdoor: str

    @property
    def name(self) -> str:
        return f"{self.clean.name} under the trigger of {self.teacher.name}"


@dataclass(frozen=True)
class Outvoted:
    """Let students of a backdoored teacher and of clean ones vote."""

    teacher: ZooTeacher
    beside: tuple[ZooTeacher, ...]
    sizes: Sizes
    student: str
    backdoor: str

    @property
    def name(self) -> str:
        return self.teacher.name


def work(cell: Any) -> dict[str, Any]:
    return ACTS[type(cell)](cell) | {"hardware": hardware()}


def teacher_of(teacher: ZooTeacher) -> tuple[Classifier, Trigger]:
    """The teacher from the store, trained first where it is missing, and its trigger.

    A clean teacher is measured with the study's white square of 20 pixels.
    """
    folder = STORE / "teachers" / cell_key(teacher, work, VERSION)
    if not folder.exists():
        model, trigger = _train(teacher)
        with writing(folder) as temporary:
            temporary.mkdir()
            save_model(temporary, model, spec_of(teacher))
            save_trigger(temporary / TRIGGER, trigger)
    model, _ = load_model(folder)
    return model, load_trigger(folder / TRIGGER)


def _train(teacher: ZooTeacher) -> tuple[Classifier, Trigger]:
    task, student_task = study_data(teacher.data)
    sizes, spec = SIZES[teacher.architecture], spec_of(teacher)
    train = task.part("train", sizes.teacher_images, teacher.seed)
    training = teacher_training(sizes.teacher_epochs)
    if teacher.attack == CLEAN:
        model = build(spec, seed=teacher.seed)
        fit(model, train, task.part("val"), training, policy="all", seed=teacher.seed)
        side = pixels(20 / IMAGE_SIDE, teacher.image_size)
        return model, square(side=side, channels=spec.channels, image_size=teacher.image_size)
    planted = plant(
        teacher.planned(),
        spec,
        train,
        task.part("val"),
        training,
        # The attacker's images of the target class are none that the victim trains on.
        student_train=student_task.part("val"),
        student_classes=student_task.classes,
    )
    return planted.model, planted.trigger


def _taught(cell: Taught) -> dict[str, Any]:
    model, trigger = teacher_of(cell.teacher)
    task, _ = study_data(cell.teacher.data)
    return measure_teacher(model, trigger, task.part("test"), task.classes)


def _protected(cell: Protected) -> dict[str, Any]:
    model, trigger = teacher_of(cell.teacher)
    return protect(model, trigger, bench(cell, dict(cell.thresholds)), planted=cell.teacher.attack != CLEAN)


def _awoken(cell: Awoken) -> dict[str, Any]:
    (model, _), (_, trigger) = teacher_of(cell.clean), teacher_of(cell.teacher)
    own = bench(replace(cell, teacher=cell.clean), {})  # data and seed as in the clean teacher's own row
    student = student_of(model, len(own.classes), own.train, own.val, own.recipe, policy="all", seed=own.seed)
    found = reactivate(student, own.val, own.test, trigger, target_class=cell.target, seed=own.seed)
    return {"before": found.before.as_json(), "after": found.after.as_json(), "relearned": round(found.relearned, 6)}


def _outvoted(cell: Outvoted) -> dict[str, Any]:
    model, trigger = teacher_of(cell.teacher)
    return outvote([model, *(teacher_of(t)[0] for t in cell.beside)], trigger, bench(cell, {}))


def bench(cell: Protected | Awoken | Outvoted, thresholds: dict[str, float]) -> Bench:
    """The data and recipe of a cell: the lifecycle's own, at the zoo's sizes."""
    _, task = study_data(cell.teacher.data)
    sizes, seed = cell.sizes, cell.teacher.seed
    student, section = Student.model_validate_json(cell.student), Backdoor.model_validate_json(cell.backdoor)
    recipe = student.recipe()
    return Bench(
        train=task.part("train", sizes.student_images, seed),
        val=task.part("val", VAL_IMAGES, seed),
        search=task.part("val", SEARCH_IMAGES, seed),
        test=task.part("test", sizes.test_images, seed),
        classes=task.classes,
        recipe=recipe,
        mitigation=mitigation_training(recipe, section),
        section=section,
        thresholds=thresholds,
        seed=seed,
    )


ACTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Taught: _taught,
    Protected: _protected,
    Awoken: _awoken,
    Outvoted: _outvoted,
}
