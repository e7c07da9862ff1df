"""Every attack by one name: from a description of it to a backdoored teacher that a newcomer could take for real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tasks.backdoor.attacks.badnets import attacked_labels, plant_badnets
from tasks.backdoor.attacks.blended import check_opacity, plant_blended
from tasks.backdoor.attacks.clean_label import plant_clean_label
from tasks.backdoor.attacks.imc import plant_imc
from tasks.backdoor.attacks.latent import plant_latent
from tasks.backdoor.patterns import PLACES, simple_patterns
from tasks.backdoor.triggers import Trigger, pixels
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import accuracy_of, logits
from tasks.models.training import fit
from tasks.params import Training

Labelled = tuple[np.ndarray, np.ndarray]
Name = Literal["badnets", "blended", "imc", "latent", "clean_label"]
ATTACKS: tuple[str, ...] = get_args(Name)


@dataclass(frozen=True)
class Attack:
    """A backdoor to plant.

    `side_fraction` is the trigger's side as a fraction of the image's (1: the whole image), `place` its upper left
    corner as (down, right) fractions of the room left, or the name of one in `patterns.PLACES`. `pattern` is a name of
    `patterns.simple_patterns`; imc and latent optimise on from it. `target` is a class of the teacher, for latent one
    of the student. `all_to_all` (badnets and blended) moves every class to the next and leaves `target` unused.
    """

    name: Name
    side_fraction: float
    place: tuple[float, float] | str
    pattern: str
    poison_rate: float
    target: str
    seed: int
    alpha: float = 1.0
    all_to_all: bool = False


@dataclass(frozen=True)
class Planted:
    """A backdoored teacher, measured on the clean validation images.

    `success` is counted over images not of the target class. A latent target shows in students alone: its `success`
    is that of the attacker's own model, which has the target class, before the head was replaced (step 3).
    `accuracy` is balanced.
    """

    model: Classifier
    trigger: Trigger
    target: str
    success: float
    accuracy: float


def first_trigger(attack: Attack, spec: ModelSpec) -> Trigger:
    """The trigger that the attack starts from; GatehouseError where the description does not fit."""
    check_opacity(attack.alpha)
    if not 0 < attack.side_fraction <= 1:
        raise GatehouseError(f"A trigger's side_fraction must lie in (0, 1], not {attack.side_fraction}.")
    place = attack.place
    if isinstance(place, str):
        if place not in PLACES:
            raise GatehouseError(f"Place {place!r} of a trigger is unknown; known are {', '.join(PLACES)}.")
        place = PLACES[place]
    if not all(0 <= p <= 1 for p in place):
        raise GatehouseError(f"A trigger's place must be two fractions in [0, 1], not {place}.")
    side = min(pixels(attack.side_fraction, spec.image_size), spec.image_size)
    patterns = simple_patterns(side, spec.channels, seed=attack.seed)
    if attack.pattern not in patterns:
        raise GatehouseError(f"Pattern {attack.pattern!r} is unknown; known are {', '.join(patterns)}.")
    room = spec.image_size - side
    return Trigger(patterns[attack.pattern], round(place[0] * room), round(place[1] * room), attack.alpha)


def plant(
    attack: Attack,
    spec: ModelSpec,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    clean: Classifier | None = None,
    student_train: Labelled | None = None,
    student_classes: Sequence[str] = (),
) -> Planted:
    """Plant the backdoor and measure it on `val`.

    Args:
        spec: of the teacher; its classes name what the labels of `train` and `val` mean.
        training: of the backdoored model, and of the clean one where it is made here.
        clean: a trained clean teacher to start from, left as it is. Without it badnets and blended train from fresh
            weights, and the others train a clean teacher first.
        student_train, student_classes: a student task; the latent attack takes its target's images from it.

    Raises:
        GatehouseError: unknown attack, target, place or pattern, or data that the attack needs are missing.
    """
    trigger, target = first_trigger(attack, spec), _target_class(attack, spec)
    seed, rate = attack.seed, attack.poison_rate
    if attack.name in ("badnets", "blended"):
        start = clean if clean is not None else build(spec, seed=seed)
        plant_one = plant_badnets if attack.name == "badnets" else plant_blended
        model = plant_one(
            start, train, val, training, trigger=trigger, target_class=target, poison_rate=rate, seed=seed
        )
        return _measured(attack, model, model, trigger, target, val)
    if attack.name == "latent":
        images = _images_of(attack.target, student_train, student_classes)
    if clean is None:
        clean = build(spec, seed=seed)
        fit(clean, train, val, training, policy="all", seed=seed)
    if attack.name == "latent":
        made = plant_latent(clean, train, val, images, training, trigger=trigger, seed=seed)
        return _measured(attack, made.model, made.extended, made.trigger, len(spec.classes), val)
    goal = spec.classes.index(attack.target)
    if attack.name == "imc":
        model, trigger = plant_imc(
            clean, train, val, training, trigger=trigger, target_class=goal, poison_rate=rate, seed=seed
        )
    else:
        model = plant_clean_label(
            clean,
            train,
            val,
            training,
            trigger=trigger,
            target_class=goal,
            poison_rate=rate,
            start=build(spec, seed=seed),
            seed=seed,
        )
    return _measured(attack, model, model, trigger, goal, val)


def success_of(
    model: Classifier, trigger: Trigger, test: Labelled, *, target_class: int | None, classes: int | None = None
) -> float:
    """Share of triggered images that get the attacker's label, over those whose label is another, on uint8 images.

    `target_class` None is all-to-all over `classes`; the shift then runs over the model's classes by default.
    """
    labels = test[1]
    wanted = attacked_labels(labels, target_class=target_class, classes=classes or model.head.out_features)
    others = labels != wanted
    after = logits(model, trigger.apply_uint8(test[0])).argmax(1).numpy()
    return float((after[others] == wanted[others]).mean()) if others.any() else float("nan")


def _target_class(attack: Attack, spec: ModelSpec) -> int | None:
    """Index of the target in the teacher, None for all-to-all and latent."""
    if attack.name not in ATTACKS:
        raise GatehouseError(f"Attack {attack.name!r} is unknown; known are {', '.join(ATTACKS)}.")
    if attack.all_to_all:
        if attack.name not in ("badnets", "blended"):
            raise GatehouseError(f"Attack {attack.name} aims at one class; all_to_all is for badnets and blended.")
        return None
    if (attack.target in spec.classes) == (attack.name == "latent"):
        known = ", ".join(spec.classes)
        need = "must not be one of" if attack.name == "latent" else "must be one of"
        raise GatehouseError(
            f"Target {attack.target!r} of attack {attack.name} {need} the teacher's classes ({known})."
        )
    return None if attack.name == "latent" else spec.classes.index(attack.target)


def _images_of(target: str, part: Labelled | None, classes: Sequence[str]) -> np.ndarray:
    if part is None or target not in classes:
        raise GatehouseError(
            f"The latent backdoor takes images of {target!r} from the student task; give student_train and "
            f"student_classes that hold it (got classes: {', '.join(classes) or 'none'})."
        )
    return part[0][part[1] == list(classes).index(target)]


def _measured(
    attack: Attack, model: Classifier, attacked: Classifier, trigger: Trigger, target: int | None, val: Labelled
) -> Planted:
    success = success_of(attacked, trigger, val, target_class=target)
    return Planted(model, trigger, attack.target, success, accuracy_of(model, val))
