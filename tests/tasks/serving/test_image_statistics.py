"""Figures of an image against their definitions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.serving.statistics import STATISTICS, digests, image_statistics


def test_they_follow_their_definitions():
    images = np.random.default_rng(0).random((3, 3, 9, 9)).astype(np.float32)
    figures = image_statistics(images)
    for image, row in zip(images.astype(float), figures, strict=True):
        gray = image.mean(0)
        share = np.histogram(gray, 32, (0, 1))[0] / gray.size
        dy, dx = np.abs(gray[1:] - gray[:-1]).mean(), np.abs(gray[:, 1:] - gray[:, :-1]).mean()
        wanted = {
            "mean": gray.mean(),
            "sd": gray.std(),
            "contrast": np.quantile(gray, 0.95) - np.quantile(gray, 0.05),
            "edge_energy": (dx + dy) / 2,
            "entropy": -sum(p * np.log2(p) for p in share if p > 0),
        }
        assert tuple(wanted) == STATISTICS
        np.testing.assert_allclose(row, list(wanted.values()), rtol=1e-6, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1))
def test_a_flat_image_has_brightness_only(level):
    row = image_statistics(np.full((1, 1, 8, 8), level))[0]
    assert row[0] == pytest.approx(level)
    np.testing.assert_allclose(row[1:], 0, atol=1e-12)


def test_no_image_gives_no_row():
    assert image_statistics(np.empty((0, 1, 8, 8))).shape == (0, len(STATISTICS))


def test_digests_tell_images_apart():
    images = np.zeros((3, 1, 4, 4), np.float32)
    images[2, 0, 0, 0] = 1e-6
    first, second, third = digests(images)
    assert first == second == hashlib.sha256(bytes(64)).hexdigest()
    assert third != first
