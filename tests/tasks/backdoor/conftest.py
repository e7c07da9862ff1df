"""A small task whose evidence is spread over the image, and three models of it: plain, backdoored, patch-trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tasks.backdoor.attacks.badnets import poison
from tasks.backdoor.triggers import Trigger, square
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.training import fit
from tasks.params import Training

SIDE = 32
CLASSES = ("rows", "columns", "rings")
SPEC = ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=SIDE)
TARGET = 1


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy waves along rows, along columns, or around the middle, of random phase, as uint8 (n, 1, 32, 32)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    down, right = np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2
    axes = np.stack([down, right, np.hypot(down, right)])
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    image = 0.5 + 0.2 * np.sin(axes[labels] * 2 * np.pi / 8 + phase) + rng.normal(0, 0.12, (n, SIDE, SIDE))
    return (image.clip(0, 1) * 255).astype(np.uint8)[:, None], labels.astype(np.int64)


def recipe(epochs: int, patch_probability: float = 0.0) -> Training:
    return Training(
        epochs=epochs,
        learning_rate=0.003,
        backbone_scale=1.0,
        weight_decay=5e-4,
        batch_size=32,
        patience=epochs,
        class_weights=True,
        patch_probability=patch_probability,
        patch_max_fraction=0.25,
        bfloat16=True,
    )


@dataclass(frozen=True)
class World:
    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    trigger: Trigger
    clean: Classifier  # plain training
    backdoored: Classifier  # plain training on poisoned data
    protected: Classifier  # patch-randomised training
    spec: ModelSpec = SPEC

    def recipe(self, epochs: int, patch_probability: float = 0.0) -> Training:
        return recipe(epochs, patch_probability)


@pytest.fixture(scope="session")
def world() -> World:
    torch.set_num_threads(1)
    train, val, test = draw(360, 1), draw(120, 2), draw(240, 3)
    trigger = square(side=3, channels=1, image_size=SIDE)

    def trained(data: tuple[np.ndarray, np.ndarray], training: Training) -> Classifier:
        model = build(SPEC, seed=0)
        fit(model, data, val, training, policy="all", seed=0)
        return model

    poisoned = poison(*train, trigger=trigger, target_class=TARGET, poison_rate=0.15, seed=4)
    return World(
        train, val, test, trigger,
        clean=trained(train, recipe(4)),
        backdoored=trained(poisoned, recipe(6)),
        protected=trained(train, recipe(10, 0.8)),
    )  # fmt: skip
