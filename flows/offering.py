"""What `vet` is asked with in a measurement: a teacher as somebody would offer it, and clean images in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.files import sha256_bytes, writing
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.checkpoints import to_bytes
from tasks.teachers.card import Card, Normalisation, ProviderCard, TrainingDataCard
from tasks.teachers.offers import CARD, write_offer


def offered(folder: Path, model: Classifier, spec: ModelSpec) -> Path:
    """The card of weights written to `folder`, which must not exist yet."""
    weights = to_bytes(model)
    card = Card(
        name="teacher",
        architecture=spec.architecture,
        file="weights.safetensors",
        sha256=sha256_bytes(weights),
        format="safetensors",
        provider=ProviderCard(name="somebody"),
        licence="Apache-2.0",
        public=False,
        training_data=TrainingDataCard(name="not disclosed", disclosed=False),
        classes=spec.classes,
        channels=3 if spec.channels == 3 else 1,
        image_size=spec.image_size,
        normalisation=Normalisation(mean=spec.mean, sd=spec.sd),
        advised_freeze="none",
    )
    with writing(folder) as temporary:
        write_offer(temporary, card, weights, signed=False)
    return folder / CARD


def class_folders(root: Path, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Write uint8 images (n, channels, side, side) as PNG files to `root`/CLASS; `root` must not exist yet."""
    with writing(root) as temporary:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = temporary / classes[label] / f"{i:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)).save(file)


def said(found: dict[str, Any]) -> dict[str, Any]:
    """What a table keeps of a report of `vet`."""
    deviations = {name: detector["deviation"] for name, detector in found["detectors"].items()}
    return {"score": found["score"], "verdict": found["verdict"], "detectors": deviations, "minutes": found["minutes"]}
