"""Sketches: alike for a picture at another brightness or a little disturbed, and too coarse to be the picture."""

from __future__ import annotations

import numpy as np

from tasks.data.phantom import draw
from tasks.serving.sketch import LENGTH, sketches


def pictures(n: int, side: int, seed: int) -> np.ndarray:
    return draw("covid", n, side, seed).images[:, None].astype(np.float32) / 255


def test_they_are_32_bytes_at_any_size_and_number_of_channels():
    for side, channels in ((16, 1), (50, 3), (224, 1)):
        images = np.repeat(pictures(6, side, 1), channels, 1)
        found = sketches(images)
        assert (found.shape, found.dtype) == ((6, LENGTH), np.int8)
        np.testing.assert_array_equal(found[:1], sketches(images[:1]))
    assert sketches(images[:0]).shape == (0, LENGTH)


def test_brightness_and_contrast_do_not_show_and_disturbance_hardly():
    images = pictures(40, 64, 2)
    kept = sketches(images).astype(int)
    np.testing.assert_allclose(sketches(0.3 + 0.5 * images), kept, atol=1)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, images.shape)
    disturbed = np.linalg.norm(sketches(images + noise).astype(int) - kept, axis=1)
    others = np.linalg.norm(kept[:, None] - kept[None], axis=2) + 1e9 * np.eye(len(kept))
    assert disturbed.max() < others.min()


def test_a_uniform_image_is_zero():
    assert not sketches(np.full((2, 1, 20, 20), 0.7, np.float32)).any()


def test_they_tell_a_thumbnail_and_little_of_the_image():
    """A linear reconstruction learnt on 600 images of the kind: 96 % of the thumbnail, 46 % of what is finer."""
    images = pictures(800, 64, 3)
    coarse = images.reshape(-1, 8, 8, 8, 8).mean((2, 4))
    fine = (images[:, 0] - np.kron(coarse, np.ones((1, 8, 8)))).reshape(800, -1)
    x = np.c_[sketches(images), np.ones(800)].astype(float)

    def explained(target: np.ndarray) -> float:
        solution = np.linalg.lstsq(x[:600], target[:600], rcond=None)[0]
        residual = target[600:] - x[600:] @ solution
        return float(1 - (residual**2).sum() / ((target[600:] - target[:600].mean(0)) ** 2).sum())

    shape = (coarse - coarse.mean((1, 2), keepdims=True)) / coarse.std((1, 2), keepdims=True)
    assert explained(shape.reshape(800, -1)) > 0.8
    assert explained(fine) < 0.6
