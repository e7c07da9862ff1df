"""Students known to be easy prey: the teacher's features copied whole, with a new linear head (study, 3.2.1)."""

from __future__ import annotations

import copy

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tasks.models.architectures import Classifier, new_head
from tasks.models.inference import features
from tasks.models.training import fit
from tasks.params import Training

EPOCHS = 6  # of a student that retrains its last block


def copied_students(
    teacher: Classifier, images: np.ndarray, labels: np.ndarray, classes: int, *, count: int, seed: int
) -> list[Classifier]:
    """`count` students that share every feature with the teacher, each with a head fitted to its own resample.

    Args:
        images, labels: the student's training data, uint8 (n, channels, side, side) and int64 (n,).
        classes: of the student's task.
    """
    known = features(teacher, images).numpy().astype(np.float64)
    mean, sd = known.mean(0), known.std(0) + 1e-6
    rng = np.random.default_rng(seed)
    students = []
    for _ in range(count):
        rows = rng.integers(0, len(labels), len(labels))
        fitted = LogisticRegression(max_iter=300).fit((known[rows] - mean) / sd, labels[rows])
        student = copy.deepcopy(teacher)
        student.head = _head(fitted, mean, sd, classes)
        students.append(student.eval())
    return students


def last_block_student(
    teacher: Classifier, images: np.ndarray, labels: np.ndarray, classes: int, *, seed: int
) -> Classifier:
    """A student that retrained the last block beside its head, plainly: the study's second freeze policy.

    Args:
        images, labels: as above; one in five chooses the epoch.
    """
    student = new_head(copy.deepcopy(teacher), classes, seed=seed)
    back = np.arange(len(labels)) % 5 == 0
    training = Training(
        epochs=EPOCHS, learning_rate=0.003, backbone_scale=1.0, weight_decay=5e-4, batch_size=64, patience=EPOCHS,
        class_weights=True, patch_probability=0.0, patch_max_fraction=0.1, bfloat16=True,
    )  # fmt: skip
    fit(student, (images[~back], labels[~back]), (images[back], labels[back]), training, policy="last", seed=seed)
    return student


def _head(fitted: LogisticRegression, mean: np.ndarray, sd: np.ndarray, classes: int) -> nn.Linear:
    """The fitted regression as a linear layer on raw features; classes that it did not see are never answered."""
    weight, bias = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # one row of log-odds for two classes
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head = nn.Linear(len(mean), classes)
    full, offset = np.zeros((classes, len(mean))), np.full(classes, -1e4)
    full[fitted.classes_] = weight / sd
    offset[fitted.classes_] = bias - (weight / sd) @ mean
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(full))
        head.bias.copy_(torch.from_numpy(offset))
    return head
