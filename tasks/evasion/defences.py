"""The defences of Figure 38, by name: what each changes in a recipe, and in which order they are tried (8.4.1).

Simplest first, earlier in the pipeline first: guards change nothing in training, terms of the teacher little;
adversarial training costs a second pass and accuracy. Each is a key of params.yaml too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tasks.models.guards import GuardName
from tasks.params import DefenceName, FreezePolicy, Training

M = TypeVar("M")


@dataclass(frozen=True)
class Defence:
    """Keys of the recipe that are set, and what is done to images before the first layer."""

    title: str
    changes: tuple[tuple[str, Any], ...] = ()
    guard: GuardName = "none"

    def recipe(self, base: Training) -> Training:
        """`base` with this defence in the place of those that it has; patches and overlays stay as they are."""
        return base.against_backdoors().model_copy(update=dict(self.changes))


def _adversarial(of_255: int, share: float) -> tuple[tuple[str, Any], ...]:
    return (("adversarial_budget", of_255 / 255), ("adversarial_share", share))


DEFENCES: dict[DefenceName, Defence] = {
    "none": Defence("None"),
    "low_pass": Defence("Low pass", guard="low_pass"),
    "jpeg": Defence("JPEG", guard="jpeg"),
    "dropout": Defence("Input dropout with a vote", guard="dropout"),
    "neuron_distance": Defence("Neuron distance from the teacher", (("neuron_distance", 5.0),)),
    "distilled": Defence("Fresh weights, features distilled", (("fresh", True), ("distillation", 5.0))),
    "adversarial_2": Defence("Adversarial training, 2/255, half of the images", _adversarial(2, 0.5)),
    "adversarial_4": Defence("Adversarial training, 4/255, half of the images", _adversarial(4, 0.5)),
    "adversarial_4_whole": Defence("Adversarial training, 4/255, all images", _adversarial(4, 1.0)),
}


@dataclass(frozen=True)
class Row:
    """One row of the table in which defences stand side by side: a student that trained so much, by this recipe."""

    name: str
    title: str
    trainable: FreezePolicy
    recipe: Training
    guard: GuardName


def table(student: Training) -> tuple[Row, ...]:
    """What is measured: no defence under every freeze policy, each defence alone, and the recipe of params.yaml."""
    plain = student.undefended()
    frozen: tuple[tuple[str, str, FreezePolicy], ...] = (
        ("frozen", "None: all features frozen", "none"),
        ("last", "None: last block trained", "last"),
        ("all", "None: all features trained", "all"),
    )
    return (
        *(Row(name, title, trainable, plain, "none") for name, title, trainable in frozen),
        Row("patches", "Patches and overlays, as against backdoors", "all", student.against_backdoors(), "none"),
        *(Row(n, d.title, "all", d.recipe(plain), d.guard) for n, d in DEFENCES.items() if n != "none"),
        Row("default", "The recipe of params.yaml: patches, overlays, adversarial training", "all", student, "none"),
    )


@dataclass(frozen=True)
class Tried(Generic[M]):
    """A defence that was tried, the student that it made, and the share of images on which that one was fooled."""

    name: DefenceName
    made: M
    fooled: float


def climb(
    names: Sequence[DefenceName], make: Callable[[Defence], M], fooled: Callable[[M, Defence], float], enough: float
) -> list[Tried[M]]:
    """Try defences in the order given until one is fooled on no more than `enough`; all that were tried."""
    tried: list[Tried[M]] = []
    for name in names:
        made = make(DEFENCES[name])
        tried.append(Tried(name, made, fooled(made, DEFENCES[name])))
        if tried[-1].fooled <= enough:
            break
    return tried


def kept(tried: Sequence[Tried[M]]) -> Tried[M]:
    """The one that was fooled least: the first that was good enough, since trying ends there."""
    return min(tried, key=lambda t: t.fooled)
