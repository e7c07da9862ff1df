"""Which cells the study consists of, from the parameters."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.backdoor.study.cells import (
    CLEAN,
    AlphaCell,
    BalancedStudentCell,
    PruningCell,
    RecoveryCell,
    StripCell,
    StudentCell,
    TeacherCell,
)
from tasks.params import FreezePolicy, Study, StudyNetwork

ARCHITECTURES = ("simple_cnn", "resnet18")
ATTACKS = ("badnets", "imc", "latent")
TRAINABLE: tuple[FreezePolicy, ...] = ("all", "last", "none")
APART = -1  # index of the model that STRIP's blend weight is chosen on: it stands in no table
ALPHA_IMAGES = 60
ALPHA_BLENDS = 32


@dataclass(frozen=True)
class Ground:
    """What all cells share: the data's digest, the images' side, the first seed and the section `study`."""

    data: str
    image_size: int
    seed: int
    study: Study

    def network(self, architecture: str) -> StudyNetwork:
        return {"simple_cnn": self.study.simple_cnn, "resnet18": self.study.resnet18}[architecture]

    def teacher(self, architecture: str, attack: str, side: int, index: int) -> TeacherCell:
        """The `index`-th repeat of a teacher; `side` is not used for a clean one."""
        own = self.network(architecture)
        return TeacherCell(
            data=self.data,
            architecture=architecture,
            attack=attack,
            side=0 if attack == CLEAN else side,
            seed=self.seed + 101 * (index + 1),
            target=self.study.latent_target if attack == "latent" else self.study.target,
            image_size=self.image_size,
            images=own.teacher_images,
            val_images=own.val_images,
            test_images=own.test_images,
            epochs=own.imc_epochs if attack == "imc" else own.teacher_epochs,
            rate=self.study.learning_rate,
            clean_epochs=own.teacher_epochs if attack in ("imc", "latent") else 0,
        )

    def student(self, teacher: TeacherCell, trainable: FreezePolicy, images: int | None = None) -> StudentCell:
        """A student on the profile's number of images, or on `images` of them (0: all)."""
        own = self.network(teacher.architecture)
        return StudentCell(
            teacher=teacher,
            trainable=trainable,
            images=own.student_images if images is None else images,
            val_images=own.val_images,
            test_images=own.test_images,
            epochs=own.student_epochs,
            rate=self.study.learning_rate,
        )

    def balanced(self, teacher: TeacherCell, trainable: FreezePolicy) -> BalancedStudentCell:
        return BalancedStudentCell(**vars(self.student(teacher, trainable)))

    def pruning(self, teacher: TeacherCell) -> PruningCell:
        """Measured on the teacher; latent, whose class that lacks, on a student of it (Tables 6b, 7b)."""
        own = self.network(teacher.architecture)
        return PruningCell(
            teacher=teacher,
            student=self.student(teacher, "none") if teacher.attack == "latent" else None,
            ratio=self.study.pruning_ratio,
            images=own.pruning_images,
            epochs=own.pruning_epochs,
            rate=self.study.learning_rate,
        )

    def alpha(self, architecture: str) -> AlphaCell:
        """On BadNets with the largest trigger and all features frozen: the study, too, chose on a BadNets model."""
        teacher = self.teacher(architecture, "badnets", max(self.study.sides), APART)
        return AlphaCell(self.student(teacher, "none"), self.study.strip_alphas, ALPHA_IMAGES, ALPHA_BLENDS)

    def strip(self, teacher: TeacherCell, alpha: float) -> StripCell:
        study = self.study
        return StripCell(
            student=self.student(teacher, "none"),
            alpha=alpha,
            images=study.strip_images,
            blends=study.strip_blends,
            false_refusals=study.strip_false_refusals,
        )

    def recovery(self, teacher: TeacherCell) -> RecoveryCell:
        return RecoveryCell(
            teacher, self.network(teacher.architecture).recovery_images, epochs=self.study.recovery_epochs
        )

    def backdoored(self, architecture: str, index: int) -> list[TeacherCell]:
        return [self.teacher(architecture, a, side, index) for a in ATTACKS for side in self.study.sides]
