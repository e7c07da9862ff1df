"""A teacher of a tiny two-class task and students of it, trained once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tasks.evasion.reference import copied_students
from tasks.evasion.sample import Sample, choose_sample
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.training import fit
from tasks.params import Training

SIDE = 16
SPEC = ModelSpec(architecture="simple_cnn", classes=("top", "bottom", "left"), image_size=SIDE)
PLACES = ((1, 6), (10, 6), (6, 1))
TRAINING = Training(
    epochs=5,
    learning_rate=0.003,
    backbone_scale=1.0,
    weight_decay=0.0005,
    batch_size=32,
    patience=10,
    class_weights=False,
    patch_probability=0.0,
    patch_max_fraction=0.2,
    bfloat16=False,
)


def bright_squares(n: int, *, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, 1, 16, 16) of noise with a faint square whose place is the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (n, 1, SIDE, SIDE)).astype(np.uint8)
    labels = np.arange(n) % classes
    for image, label in zip(images, labels, strict=True):
        top, left = PLACES[label]
        image[0, top : top + 5, left : left + 5] += 70
    return images, labels.astype(np.int64)


@dataclass(frozen=True)
class Case:
    teacher: Classifier  # two classes: top, bottom
    copied: Classifier  # three classes, all features the teacher's
    other: Classifier  # three classes, never saw the teacher
    train: tuple[np.ndarray, np.ndarray]
    sample: Sample  # of test images that `copied` gets right


@pytest.fixture(scope="session")
def case() -> Case:
    torch.set_num_threads(1)
    train, val, test = (bright_squares(n, seed=s) for n, s in ((150, 0), (45, 1), (72, 2)))
    teacher = build(ModelSpec(architecture="simple_cnn", classes=("top", "bottom"), image_size=SIDE), seed=0)
    fit(
        teacher,
        bright_squares(120, seed=3, classes=2),
        bright_squares(40, seed=4, classes=2),
        TRAINING,
        policy="all",
        seed=0,
    )
    (copied,) = copied_students(teacher, *train, 3, count=1, seed=0)
    other = build(SPEC, seed=8)
    fit(other, train, val, TRAINING, policy="all", seed=8)
    return Case(teacher, copied, other, train, choose_sample(copied, *test, seed=0, source="the student"))
