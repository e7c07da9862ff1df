"""The ladder of mitigations by name, mildest first: what may be tried on a candidate that a small pattern steers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.backdoor.defences.anp import prune_adversarially
from tasks.backdoor.defences.common import Labelled, Mitigated
from tasks.backdoor.defences.fine_pruning import fine_prune
from tasks.backdoor.defences.ft_sam import ft_sam
from tasks.backdoor.defences.ibau import i_bau
from tasks.backdoor.defences.patch_training import train_against_patches
from tasks.backdoor.defences.unlearning import unlearn
from tasks.backdoor.triggers import Trigger
from tasks.models.architectures import Classifier
from tasks.params import Backdoor, Training

__all__ = ["MITIGATIONS", "Given", "Mitigated", "mitigate"]


@dataclass(frozen=True)
class Given:
    """What a mitigation may use; a method takes from it what it needs and leaves the model as it is."""

    model: Classifier
    train: Labelled
    val: Labelled
    training: Training
    section: Backdoor
    seed: int
    triggers: tuple[Trigger, ...] = ()  # recovered on the model by our own search
    progress: Callable[[int], None] | None = None  # told the number of epochs or rounds done

    def told(self, epoch: object) -> None:
        """Progress of methods that report a record an epoch."""
        if self.progress:
            self.progress(epoch.epoch + 1)  # type: ignore[attr-defined]


def _anp(given: Given) -> Mitigated:
    return prune_adversarially(given.model, given.train, given.val, given.training, seed=given.seed)


def _fine_pruning(given: Given) -> Mitigated:
    return fine_prune(
        given.model, given.train, given.val, given.training,
        pruning_ratio=given.section.pruning_ratio, seed=given.seed, progress=given.told,
    )  # fmt: skip


def _ft_sam(given: Given) -> Mitigated:
    return ft_sam(given.model, given.train, given.val, given.training, seed=given.seed, progress=given.progress)


def _i_bau(given: Given) -> Mitigated:
    return i_bau(given.model, given.train, given.val, given.training, seed=given.seed, progress=given.progress)


def _patch_adversarial(given: Given) -> Mitigated:
    return train_against_patches(
        given.model, given.train, given.val, given.training, seed=given.seed, progress=given.told
    )  # fmt: skip


def _unlearning(given: Given) -> Mitigated:
    return unlearn(
        given.model, given.train, given.val, given.training,
        triggers=given.triggers, seed=given.seed, progress=given.told,
    )  # fmt: skip


MITIGATIONS: dict[str, Callable[[Given], Mitigated]] = {
    "anp": _anp,
    "fine_pruning": _fine_pruning,
    "ft_sam": _ft_sam,
    "i_bau": _i_bau,
    "patch_adversarial": _patch_adversarial,
    "unlearning": _unlearning,
}


def mitigation_training(recipe: Training, section: Backdoor) -> Training:
    """How mitigations train: as the student did, for the section's epochs, with all features at the same rate."""
    return recipe.model_copy(
        update={
            "epochs": section.mitigation_epochs,
            "learning_rate": section.mitigation_learning_rate,
            "backbone_scale": 1.0,
            "patience": section.mitigation_epochs,
        }
    )


def mitigate(name: str, given: Given) -> Mitigated:
    """Apply one method of the table."""
    return MITIGATIONS[name](given)
