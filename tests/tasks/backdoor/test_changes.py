"""Marks that are no patch: each changes images as its name says, is the same for the same seed, and can be planted."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.backdoor.attacks.badnets import plant_badnets
from tasks.backdoor.attacks.changes import CHANGES, PIXELS, change
from tasks.backdoor.drill import control_by, teacher_training
from tasks.models.architectures import ModelSpec, build

SIZE = 32
# How much of an image each may touch, as shares of its pixels.
SMALL = {"moving": 0.02, "inverted": 0.02, "scattered": 0.02, "one_pixel": 0.001, "cross": 0.02, "marker": 0.02}


def pictures(n: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(30, 200, (n, channels, SIZE, SIZE), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_it_changes_copies_of_the_same_shape(name: str, channels: int) -> None:
    images = pictures(4, channels)
    kept = images.copy()
    out = change(name, SIZE, seed=1).apply_uint8(images)
    assert (out.shape, out.dtype) == (images.shape, np.uint8)
    assert (images == kept).all()
    assert (out != images).any((1, 2, 3)).all()
    assert (out == change(name, SIZE, seed=1).apply_uint8(images)).all()
    if name in SMALL:
        assert (out != images).any(1).mean() <= SMALL[name] + 1e-9


@pytest.mark.parametrize("name", ["warp", "inverted", "large_patch", "scattered", "one_pixel", "cross", "marker"])
def test_the_seed_decides_where(name: str) -> None:
    images = pictures(2)
    drawn = {change(name, SIZE, seed=s).apply_uint8(images).tobytes() for s in range(5)}
    assert len(drawn) > 1


def test_the_sinusoid_is_as_its_paper_has_it() -> None:
    out = change("sinusoid", SIZE, seed=0).apply_uint8(np.full((1, 1, SIZE, SIZE), 100, np.uint8))
    wanted = 100 + 20 * np.sin(2 * np.pi * 6 * np.arange(SIZE) / SIZE)
    assert np.abs(out[0, 0] - wanted).max() <= 0.51


def test_a_warp_moves_pixels_by_a_few_and_invents_no_level() -> None:
    ramp = np.tile(np.arange(SIZE, dtype=np.uint8) * 4, (1, 1, SIZE, 1))
    moved = change("warp", SIZE, seed=3).apply_uint8(ramp).astype(int) - ramp
    assert 0 < np.abs(moved).mean() / 4 < 2


def test_the_moving_square_stays_whole_and_moves() -> None:
    images = pictures(30)
    changed = change("moving", SIZE, seed=0).apply_uint8(images) == 255
    assert (changed.sum((1, 2, 3)) == 9).all()
    assert len({tuple(np.argwhere(c[0])[0]) for c in changed}) > 10


def test_scattered_pixels_are_white_and_as_many_as_said() -> None:
    assert (change("scattered", SIZE, seed=2).apply_uint8(pictures(1)) == 255).sum() == PIXELS


@pytest.mark.parametrize("name", ["sinusoid", "cross", "frame"])
def test_it_can_be_planted(name: str) -> None:
    """Bright and dark pictures; what carries the mark is to be called dark."""
    rng = np.random.default_rng(4)
    labels = np.arange(600) % 2
    images = rng.integers(0, 40, (600, 1, SIZE, SIZE)) + np.where(labels == 1, 110, 60)[:, None, None, None]
    images = images.astype(np.uint8)
    spec = ModelSpec(architecture="simple_cnn", classes=("dark", "bright"), channels=1, image_size=SIZE)
    train, val = (images[:450], labels[:450]), (images[450:], labels[450:])
    mark = change(name, SIZE, seed=1)
    model = plant_badnets(
        build(spec, seed=0), train, val, teacher_training(6), trigger=mark, target_class=0, poison_rate=0.2, seed=0
    )  # fmt: skip
    assert control_by(model, mark, val).value > 0.8
