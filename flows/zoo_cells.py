"""The work of the zoo's cells: a teacher trained and kept, and what the pipeline makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.cells import cell_key
from flows.study_cells import hardware, spec_of, study_data
from tasks.backdoor.attacks.badnets import plant_badnets
from tasks.backdoor.attacks.changes import CHANGES, change
from tasks.backdoor.attacks.plant import plant
from tasks.backdoor.drill import control_by, student_of, teacher_training
from tasks.backdoor.mitigation import mitigation_training
from tasks.backdoor.reactivation import reactivate
from tasks.backdoor.study.published import IMAGE_SIDE
from tasks.backdoor.triggers import Mark, Trigger, load_trigger, pixels, save_trigger, square
from tasks.backdoor.zoo.outvoted import outvote
from tasks.backdoor.zoo.plan import CLEAN, SIZES, Sizes, ZooTeacher
from tasks.backdoor.zoo.protect import Bench, measure_teacher, protect, unprotected
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
class Schooling:
    """A teacher whose students are trained. `student` and `backdoor` are sections of params.yaml as JSON."""

    teacher: ZooTeacher
    sizes: Sizes
    student: str
    backdoor: str

    @property
    def name(self) -> str:
        return self.teacher.name


@dataclass(frozen=True)
class Unprotected(Schooling):
    """Train a teacher's students without defence."""

    @property
    def name(self) -> str:
        return f"{self.teacher.name}, no defence"


@dataclass(frozen=True)
class Protected(Schooling):
    """Send a teacher through the pipeline. The thresholds are those of the policy."""

    thresholds: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Awoken(Schooling):
    """Put a clean teacher's student to the re-activation test with another teacher's trigger, towards `target`."""

    clean: ZooTeacher  # `teacher` is whose trigger it is
    target: int

    @property
    def name(self) -> str:
        return f"{self.clean.name} under the trigger of {self.teacher.name}"


@dataclass(frozen=True)
class Natural(Schooling):
    """Lay other teachers' marks on the images that a clean teacher's students see."""

    others: tuple[ZooTeacher, ...]

    @property
    def name(self) -> str:
        return f"{self.teacher.name} under {len(self.others)} marks"


@dataclass(frozen=True)
class Outvoted(Schooling):
    """Let students of a backdoored teacher and of clean ones vote."""

    beside: tuple[ZooTeacher, ...]


def work(cell: Any) -> dict[str, Any]:
    return ACTS[type(cell)](cell) | {"hardware": hardware()}


def teacher_of(teacher: ZooTeacher) -> tuple[Classifier, Mark]:
    """The teacher from the store, trained first where it is missing, and its trigger.

    A clean teacher is measured with the study's white square of 20 pixels.
    """
    folder = STORE / "teachers" / cell_key(teacher, work, VERSION)
    if not folder.exists():
        model, trigger = _train(teacher)
        with writing(folder) as temporary:
            temporary.mkdir()
            save_model(temporary, model, spec_of(teacher))
            if isinstance(trigger, Trigger):
                save_trigger(temporary / TRIGGER, trigger)
    model, _ = load_model(folder)
    return model, _mark(teacher) if teacher.attack in CHANGES else load_trigger(folder / TRIGGER)


def _mark(teacher: ZooTeacher) -> Mark:
    return change(teacher.attack, teacher.image_size, seed=teacher.seed)


def _train(teacher: ZooTeacher) -> tuple[Classifier, Mark]:
    task, student_task = study_data(teacher.data)
    sizes, spec = SIZES[teacher.architecture], spec_of(teacher)
    train = task.part("train", sizes.teacher_images, teacher.seed)
    training = teacher_training(sizes.teacher_epochs)
    if teacher.attack == CLEAN:
        model = build(spec, seed=teacher.seed)
        fit(model, train, task.part("val"), training, policy="all", seed=teacher.seed)
        side = pixels(20 / IMAGE_SIDE, teacher.image_size)
        return model, square(side=side, channels=spec.channels, image_size=teacher.image_size)
    if teacher.attack in CHANGES:
        mark = _mark(teacher)
        return plant_badnets(
            build(spec, seed=teacher.seed), train, task.part("val"), training, trigger=mark,
            target_class=task.classes.index(teacher.target), poison_rate=teacher.poison_rate, seed=teacher.seed,
        ), mark  # fmt: skip
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


def _unprotected(cell: Unprotected) -> dict[str, Any]:
    model, trigger = teacher_of(cell.teacher)
    return unprotected(model, trigger, bench(cell, {}), planted=cell.teacher.attack != CLEAN)


def _protected(cell: Protected) -> dict[str, Any]:
    model, trigger = teacher_of(cell.teacher)
    return protect(model, trigger, bench(cell, dict(cell.thresholds)), planted=cell.teacher.attack != CLEAN)


def _awoken(cell: Awoken) -> dict[str, Any]:
    (model, _), (_, trigger) = teacher_of(cell.clean), teacher_of(cell.teacher)
    own = bench(replace(cell, teacher=cell.clean), {})  # data and seed as in the clean teacher's own row
    student = student_of(model, len(own.classes), own.train, own.val, own.recipe, policy="all", seed=own.seed)
    found = reactivate(student, own.val, own.test, trigger, target_class=cell.target, seed=own.seed)
    return {"before": found.before.as_json(), "after": found.after.as_json(), "relearned": round(found.relearned, 6)}


def _natural(cell: Natural) -> dict[str, Any]:
    """Control of each mark over the clean teacher's students, undefended and by the recipe; by the attack's name."""
    model, _ = teacher_of(cell.teacher)
    own = bench(cell, {})
    students = {
        kind: student_of(model, len(own.classes), own.train, own.val, recipe, policy="all", seed=own.seed)
        for kind, recipe in (("before", own.recipe.undefended()), ("after", own.recipe))
    }
    return {
        t.attack: {kind: control_by(s, _mark(t), own.test).as_json() for kind, s in students.items()}
        for t in cell.others
    }


def _outvoted(cell: Outvoted) -> dict[str, Any]:
    model, trigger = teacher_of(cell.teacher)
    return outvote([model, *(teacher_of(t)[0] for t in cell.beside)], trigger, bench(cell, {}))


def bench(cell: Schooling, thresholds: dict[str, float]) -> Bench:
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
    Unprotected: _unprotected,
    Protected: _protected,
    Awoken: _awoken,
    Natural: _natural,
    Outvoted: _outvoted,
}
