"""What a measurement offers to `vet` is what its user would bring: the same network, the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.vet_digits import CLASSES, SIDE, TEACHERS, digits
from flows.offering import class_folders, offered
from tasks.data.clean_set import read_clean_set
from tasks.models.architectures import ModelSpec, build
from tasks.teachers.card import load_card
from tasks.teachers.opening import open_teacher


@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_and_the_images_come_back(tmp_path: Path, channels: int) -> None:
    spec = ModelSpec(architecture="simple_cnn", classes=("no", "yes"), channels=channels, image_size=32)
    model = build(spec, seed=1)
    opened, told, _ = open_teacher(load_card(offered(tmp_path / "offer", model, spec)))
    assert told.classes == spec.classes
    assert all(
        torch.equal(a, b) for a, b in zip(opened.state_dict().values(), model.state_dict().values(), strict=True)
    )
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (240, channels, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 2, 240)
    class_folders(tmp_path / "images", images, labels, spec.classes)
    found = read_clean_set(tmp_path / "images", spec.classes, channels=channels, image_size=32, limit=300, seed=1)
    assert {i.tobytes() for i in found.images} == {i.tobytes() for i in images}
    assert np.bincount(found.labels).tolist() == np.bincount(labels).tolist()


def test_the_digits_are_colourful_and_no_image_is_on_both_sides() -> None:
    train, held_out = digits(7)
    assert train[0].shape[1:] == held_out[0].shape[1:] == (3, SIDE, SIDE)
    assert set(train[1]) == set(held_out[1]) == set(range(len(CLASSES)))
    assert not {i.tobytes() for i in train[0]} & {i.tobytes() for i in held_out[0]}
    assert (train[0].std(1) > 5).mean() > 0.5
    assert len({t.seed for t in TEACHERS}) == len(TEACHERS)
