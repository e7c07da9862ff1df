from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from tasks.data.decode import MASK_GRAY, shortcut_region
from tasks.data.phantom import draw
from tasks.data.shortcut import Told, balanced_accuracy, coarse, probe

FRACTIONS = {"border_fraction": 0.047, "corner_fraction": 0.125}


def task(n: int = 240, side: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise, three classes, three quarters for training."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (n, 1, side, side), dtype=np.uint8)
    return images, np.arange(n) % 3, np.where(np.arange(n) % 4 == 3, "test", "train")


def test_a_mark_in_one_corner_is_found_and_only_there() -> None:
    images, labels, split = task()
    images[:, 0, 3, 3] = labels * 25 + 200  # inside the corner square, outside the border ring
    told = probe(images, labels, split, remedy="none", seed=0, **FRACTIONS)
    assert told["corners"].balanced_accuracy > 0.95
    assert told["corners"].gain_ci[0] > 0.8
    assert told["border"].gain_ci[0] < 0.15
    assert told["corners"].n == 60
    assert told["corners"].chance == pytest.approx(1 / 3)


def test_pure_noise_tells_nothing_anywhere() -> None:
    images, labels, split = task(360)
    told = probe(images, labels, split, remedy="none", seed=0, **FRACTIONS)
    for found in told.values():
        assert found.gain_ci[0] < 0.1 < 0.4
        assert found.gain < 0.2


def test_after_masking_the_pixels_inside_the_mask_are_probed() -> None:
    images, labels, split = task()
    images[:, 0, 2:4, 8:24] = (labels * 50 + 50)[:, None, None]  # the ring inside the masked border
    images = np.where(shortcut_region(32, 0.06, 0.125), np.uint8(MASK_GRAY), images)
    fractions = {"border_fraction": 0.06, "corner_fraction": 0.125}
    masked = probe(images, labels, split, remedy="mask_corners", seed=0, **fractions)
    assert masked["border"].balanced_accuracy > 0.95
    unasked = probe(images, labels, split, remedy="none", seed=0, **fractions)
    assert unasked["border"].gain < 0.05  # the constant mask itself would tell nothing


def test_the_phantoms_border_and_corners_tell_nothing() -> None:
    drawing = draw("covid", 600, 32, 7)
    labels = np.unique(drawing.labels, return_inverse=True)[1]
    patients = np.unique(drawing.patients, return_inverse=True)[1]
    split = np.where(patients % 3 == 0, "test", "train")
    told = probe(drawing.images[:, None], labels, split, remedy="none", seed=0, **FRACTIONS)
    assert told["border"].gain_ci[0] < 0.08
    assert told["corners"].gain_ci[0] < 0.08
    assert told["border"].gain < 0.2
    assert told["corners"].gain < 0.2
    assert told["coarse"].gain > 0.25  # the lungs do tell


def test_gain_is_zero_at_chance_and_one_when_always_right() -> None:
    told = Told(pixels=1, chance=0.25, balanced_accuracy=0.25, ci=(0.25, 1.0), n=8)
    assert told.gain == 0
    assert told.gain_ci == (0, 1)
    assert told.record()["gain"] == {"value": 0, "low": 0, "high": 1}


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_balanced_accuracy_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(pairs).T
    with np.errstate(all="ignore"):
        expected = balanced_accuracy_score(labels, predicted)
    assert balanced_accuracy(predicted, labels) == pytest.approx(expected)


@pytest.mark.parametrize("side", [16, 32, 40, 65])
def test_coarse_cells_hold_area_means(side: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, side, side), dtype=np.uint8)
    cells = coarse(images).reshape(2, 3, 16, 16)
    edges = np.linspace(0, side, 17).round().astype(int)
    for i, j in ((0, 0), (7, 12), (15, 15)):
        expected = images[:, :, edges[i] : edges[i + 1], edges[j] : edges[j + 1]].mean(axis=(2, 3))
        assert cells[:, :, i, j] == pytest.approx(expected, abs=0.501)
