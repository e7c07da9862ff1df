"""Reference models for one task, trained on the spot from a small clean set: clean ones, and canaries of attacks.

What a detector's score means is only known beside models whose truth is known. They need not be as good as the
candidate: scores are counted in each model's own standard deviations, and honest models of one task share their natural
weaknesses whatever the number of images they learnt from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tasks.backdoor.attacks.plant import Attack, plant
from tasks.backdoor.drill import TOOK, teacher_training
from tasks.backdoor.patterns import PLACES
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import accuracy_of
from tasks.models.training import fit

Labelled = tuple[np.ndarray, np.ndarray]
HELD_OUT = 0.2  # share of the images that references are not trained on and every score is measured on
EPOCHS, BATCH = 8, 32
ENOUGH = 480  # images from which EPOCHS suffice; fewer are seen more often
LONGER = 3 / 8  # of its epochs that a canary trains beyond a clean reference: its backdoor has to take too
LEARNT = 0.1  # balanced accuracy beyond guessing from which a reference has learnt its task
PLAN = (  # attack, side as a fraction of the image's, pattern, opacity, poison rate: enough to take on few images
    ("badnets", 0.045, "binary_noise", 1.0, 0.1),
    ("badnets", 0.09, "white", 1.0, 0.15),
    ("blended", 1.0, "noise", 0.15, 0.15),
    ("badnets", 0.045, "checker", 1.0, 0.12),
    ("imc", 0.09, "noise", 1.0, 0.12),
    ("badnets", 0.09, "noise", 1.0, 0.15),
    ("blended", 0.09, "binary_noise", 0.6, 0.2),
    ("badnets", 0.0625, "coarse_checker", 1.0, 0.15),
)


@dataclass(frozen=True)
class Order:
    """A reference to train; `attack` is None for a clean one. Equal orders on equal images give equal weights."""

    name: str
    seed: int
    epochs: int
    attack: Attack | None = None


@dataclass(frozen=True)
class Reference:
    """A trained reference; `success` is its backdoor's on held-out images (None: clean), `accuracy` balanced."""

    order: Order
    model: Classifier
    accuracy: float
    success: float | None

    @property
    def took(self) -> bool:
        return self.success is not None and self.success >= TOOK

    @property
    def learnt(self) -> bool:
        """Better than guessing; a model that is not knows no weakness of the task."""
        return self.accuracy >= 1 / self.model.head.out_features + LEARNT


def split(images: Labelled, *, seed: int) -> tuple[Labelled, Labelled]:
    """Images for training references, and those held out of it (a fifth of every class), at random by the seed."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(images[1]), bool)
    for c in np.unique(images[1]):
        own = rng.permutation(np.flatnonzero(images[1] == c))
        held[own[: max(4, round(HELD_OUT * len(own)))]] = True
    return (images[0][~held], images[1][~held]), (images[0][held], images[1][held])


def plan(classes: Sequence[str], *, clean: int, canaries: int, images: int, seed: int) -> list[Order]:
    """Orders of so many clean references and canaries; canaries differ in attack, pattern, size, place and target.

    Args:
        images: that references are trained on; few are seen in more epochs, so that all take as many steps.
    """
    epochs = max(EPOCHS, math.ceil(EPOCHS * ENOUGH / max(images, 1)))
    rng = np.random.default_rng(seed)
    orders = [Order(f"clean{i}", seed + 7919 * (i + 1), epochs + i % 3) for i in range(clean)]
    places = rng.permutation(sorted(PLACES))
    targets = rng.permutation(len(classes))
    for i in range(canaries):
        name, side, pattern, alpha, rate = PLAN[i % len(PLAN)]
        own = seed + 104729 * (i + 1)
        attack = Attack(
            name=name,  # type: ignore[arg-type]
            side_fraction=side, place=str(places[i % len(places)]), pattern=pattern, poison_rate=rate,
            target=classes[targets[i % len(classes)]], seed=own, alpha=alpha,
        )  # fmt: skip
        orders.append(Order(f"canary{i}", own, epochs + round(LONGER * epochs), attack))
    return orders


def train_reference(
    order: Order, spec: ModelSpec, train: Labelled, held_out: Labelled, *, clean: Classifier | None = None
) -> Reference:
    """Train what was ordered, with early stopping on the held-out images.

    Args:
        clean: a clean reference, which an imc canary starts from; without it one is trained for it.
    """
    training = teacher_training(order.epochs, BATCH).model_copy(update={"patience": max(4, order.epochs // 3)})
    if order.attack is None:
        model = build(spec, seed=order.seed)
        fit(model, train, held_out, training, policy="all", seed=order.seed)
        return Reference(order, model, accuracy_of(model, held_out), None)
    planted = plant(order.attack, spec, train, held_out, training, clean=clean)
    return Reference(order, planted.model, planted.accuracy, planted.success)


def key(order: Order, spec: ModelSpec, images: Labelled) -> str:
    """Hex digest of everything that a reference depends on but the code: the name of its cached files."""
    h = hashlib.sha256(f"{spec.model_dump_json()} {sorted(asdict(order).items())} {BATCH}".encode())
    for array in images:
        h.update(f"{array.shape} {array.dtype}".encode())
        h.update(np.ascontiguousarray(array).data)
    return h.hexdigest()
