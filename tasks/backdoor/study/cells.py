"""The study's Experiments 1 to 3 (section 2.2.2) as independent cells.

A cell is a frozen record of everything that decides its figures. Sides are in pixels of 224, as published, and kept as
fractions of the image's side at other sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks.params import FreezePolicy

CLEAN = "clean"


@dataclass(frozen=True)
class TeacherCell:
    """A teacher of the pneumonia task: `clean`, or backdoored with a trigger of `side` in the upper left corner."""

    data: str  # digest of both tasks' manifests
    architecture: str
    attack: str
    side: int
    seed: int
    target: str
    image_size: int
    images: int
    val_images: int
    test_images: int
    epochs: int
    rate: float
    clean_epochs: int = 0  # of the clean teacher that IMC and the latent backdoor start from

    @property
    def name(self) -> str:
        side = "" if self.attack == CLEAN else f" {self.side} px"
        return f"{self.architecture} {self.attack}{side} seed {self.seed} teacher"

    def clean(self) -> TeacherCell:
        """The clean teacher of the same seed, which the attack starts from; it aims at nothing."""
        return replace(self, attack=CLEAN, side=0, target="", epochs=self.clean_epochs or self.epochs, clean_epochs=0)


@dataclass(frozen=True)
class StudentCell:
    """A student of the radiography task; `trainable` features all, last or none, the head always."""

    teacher: TeacherCell
    trainable: FreezePolicy
    images: int
    val_images: int
    test_images: int
    epochs: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.teacher.name}'s student, trainable {self.trainable}"


@dataclass(frozen=True)
class BalancedStudentCell(StudentCell):
    """The same student, its classes weighed alike in training, however many images each has."""

    @property
    def name(self) -> str:
        return f"{super().name}, classes weighed alike"


@dataclass(frozen=True)
class PruningCell:
    """Fine-Pruning of a teacher; measured on it, or with `student` on the student trained from it."""

    teacher: TeacherCell
    student: StudentCell | None
    ratio: float
    images: int
    epochs: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.teacher.name}, fine-pruned"


@dataclass(frozen=True)
class AlphaCell:
    """STRIP's blend weight, chosen on a student whose trigger is known and that stands in no table."""

    student: StudentCell
    alphas: tuple[float, ...]
    images: int
    blends: int

    @property
    def name(self) -> str:
        return f"{self.student.name}, blend weights"


@dataclass(frozen=True)
class StripCell:
    """STRIP on a student, at a blend weight that was calibrated elsewhere."""

    student: StudentCell
    alpha: float
    images: int
    blends: int
    false_refusals: float

    @property
    def name(self) -> str:
        return f"{self.student.name}, STRIP"


@dataclass(frozen=True)
class RecoveryCell:
    """Neural Cleanse on a teacher."""

    teacher: TeacherCell
    images: int
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.teacher.name}, Neural Cleanse"
