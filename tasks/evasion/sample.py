"""What is attacked: the test images that a candidate gets right, and what each shall be taken for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.inference import as_float, logits, require_finite

SUREST = 10  # pictures of each class that an attacker chooses from


@dataclass(frozen=True)
class Sample:
    """The images that are attacked: those of `n` test images that the candidate gets right."""

    n: int
    rows: np.ndarray  # int (k,), which of the n
    x: Tensor  # float32 (k, channels, side, side) in [0, 1]
    y: Tensor  # int64 (k,)
    targets: Tensor  # int (k,): row in x of the picture of another class that each image shall mimic; −1 where none is


def check_pair(candidate: ModelSpec, teacher: ModelSpec) -> None:
    """Raises GatehouseError where the two take different images: nothing could be crafted on one for the other."""
    ours, theirs = (candidate.channels, candidate.image_size), (teacher.channels, teacher.image_size)
    if ours != theirs:
        raise GatehouseError(
            f"The candidate takes images of {ours[0]} channel(s) and {ours[1]} pixels, its teacher {theirs[0]} and "
            f"{theirs[1]}: attacks cannot be carried over; train the candidate again from models/teacher."
        )


def choose_sample(candidate: Classifier, images: np.ndarray, labels: np.ndarray, *, seed: int, source: str) -> Sample:
    """The images that the candidate gets right, and for each a picture of another class to mimic.

    The attacker takes pictures that the candidate itself is surest of, which he learns by asking it. Measured, that
    raises the success of mimicry from .5 to .7 over pictures taken at random.

    Args:
        images, labels: uint8 (n, channels, side, side) and int64 (n,).
        source: names the candidate in the error where its outputs are not finite.
    """
    output = require_finite(logits(candidate, images), source=source)
    rows = np.flatnonzero(output.argmax(1).numpy() == labels)
    own, sure = labels[rows], output.softmax(1).amax(1).numpy()[rows]
    surest = {c: np.flatnonzero(own == c)[np.argsort(-sure[own == c], kind="stable")[:SUREST]] for c in np.unique(own)}
    rng = np.random.default_rng(seed)
    targets = np.full(len(rows), -1)
    for i, label in enumerate(own):
        if others := [c for c in surest if c != label]:
            targets[i] = rng.choice(surest[rng.choice(others)])
    return Sample(len(labels), rows, as_float(images[rows]), torch.from_numpy(own), torch.from_numpy(targets))


def as_255(eps: float) -> str:
    """A budget as people in the field write it: `4/255`."""
    return f"{eps * 255:.3g}/255"
