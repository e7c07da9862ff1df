"""A tiny task that a small network learns in a second: where the bright square is, tells the class."""

from __future__ import annotations

import numpy as np

from tasks.models.architectures import ModelSpec
from tasks.params import Training

SIDE = 16
SPEC = ModelSpec(architecture="simple_cnn", classes=("top", "bottom", "left"), channels=1, image_size=SIDE)
TRAINING = Training(
    epochs=3,
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
PLACES = ((1, 6), (10, 6), (6, 1))


def squares(n: int, *, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, 1, 16, 16) of noise with a square, and the class of each; classes take turns."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 120, (n, 1, SIDE, SIDE)).astype(np.uint8)
    labels = np.arange(n) % classes
    for image, label in zip(images, labels, strict=True):
        top, left = PLACES[label]
        image[0, top : top + 5, left : left + 5] += 110
    return images, labels.astype(np.int64)
