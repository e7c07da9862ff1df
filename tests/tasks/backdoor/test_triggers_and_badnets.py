"""Triggers are pasted where they say, and BadNets poisons as many images as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.backdoor.attacks.badnets import poison
from tasks.backdoor.triggers import Trigger, load_trigger, pixels, save_trigger, square
from tasks.errors import GatehouseError


def test_only_the_square_changes_and_the_original_does_not() -> None:
    images = np.full((3, 1, 16, 16), 100, np.uint8)
    out = square(side=4, channels=1, image_size=16, corner="bottom_right").apply_uint8(images)
    assert (out[:, :, 12:, 12:] == 255).all()
    assert (out[:, :, :12] == 100).all()
    assert (out[:, :, :, :12] == 100).all()
    assert (images == 100).all()


def test_opacity_blends() -> None:
    trigger = Trigger(torch.ones(1, 2, 2), 0, 0, alpha=0.25)
    assert float(trigger.apply(torch.full((1, 1, 4, 4), 0.2))[0, 0, 0, 0]) == pytest.approx(0.4)


def test_a_border_pastes_a_frame_and_survives_its_file(tmp_path: Path) -> None:
    frame = Trigger(torch.ones(1, 6, 6), 1, 2, alpha=0.5, border=2)
    out = frame.apply(torch.zeros(1, 1, 10, 10))[0, 0]
    assert (out[3:5, 4:6] == 0).all()
    assert float(out.sum()) == 0.5 * (36 - 4)
    save_trigger(tmp_path / "t.safetensors", frame)
    assert load_trigger(tmp_path / "t.safetensors").border == 2
    save_trigger(tmp_path / "t.safetensors", replace(frame, border=0))
    assert load_trigger(tmp_path / "t.safetensors").border == 0


def test_sides_keep_their_fraction() -> None:
    assert (pixels(20 / 224, 224), pixels(0.09, 64), pixels(0.01, 32)) == (20, 6, 2)


@given(st.integers(10, 80), st.floats(0.1, 0.5), st.integers(0, 2), st.integers(0, 1000))
def test_poison_count_labels_and_untouched_rest(n: int, rate: float, target: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 200, (n, 1, 8, 8), dtype=np.uint8), np.arange(n) % 3
    trigger = square(side=2, channels=1, image_size=8)
    new_images, new_labels = poison(
        images, labels, trigger=trigger, target_class=target, poison_rate=rate, seed=seed
    )  # fmt: skip
    changed = (new_images != images).any((1, 2, 3))
    assert changed.sum() == min(round(rate * n), (labels != target).sum())
    assert (new_labels[changed] == target).all()
    assert (labels[changed] != target).all()
    assert (new_labels[~changed] == labels[~changed]).all()


def test_a_rate_that_poisons_nothing_is_refused() -> None:
    images, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    with pytest.raises(GatehouseError, match="raise the rate"):
        poison(
            images, labels, trigger=square(side=2, channels=1, image_size=8), target_class=0, poison_rate=0.01, seed=0
        )  # fmt: skip
