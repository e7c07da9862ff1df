"""A sketch of an image that the log may keep: enough to tell queries near to each other, too coarse to be the image."""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn

GRID = 8
LENGTH = 32  # bytes of a sketch
STEPS = 8.0  # a coefficient's unit is a cell's standard deviation; it is kept in eighths, in one signed byte
# The lowest frequencies of an 8 × 8 cosine transform, in order of frequency; the mean (0, 0) is left out.
_ORDER = sorted(((i, j) for i in range(GRID) for j in range(GRID)), key=lambda ij: (ij[0] + ij[1], ij))[1 : LENGTH + 1]
_ROWS, _COLUMNS = (np.array(axis) for axis in zip(*_ORDER, strict=True))


def sketches(images: np.ndarray) -> np.ndarray:
    """Sketches of images as the model sees them, int8 (n, 32).

    The gray image is averaged over 8 × 8 cells, brought to mean 0 and standard deviation 1 (so that neither brightness
    nor contrast of a device shows), and its lowest frequencies are rounded to a byte each.

    Args:
        images: float (n, channels, side, side) in [0, 1], side at least 8.
    """
    if not len(images):
        return np.empty((0, LENGTH), np.int8)
    gray = images.mean(1, dtype=np.float64)
    edges = np.arange(GRID) * gray.shape[-1] // GRID
    sizes = np.diff(np.append(edges, gray.shape[-1]))
    cells = np.add.reduceat(np.add.reduceat(gray, edges, 1), edges, 2) / np.outer(sizes, sizes)
    cells -= cells.mean((1, 2), keepdims=True)
    cells /= np.maximum(cells.std((1, 2), keepdims=True), 1e-3)  # of a uniform image no noise is blown up
    frequencies = dctn(cells, axes=(1, 2), norm="ortho")[:, _ROWS, _COLUMNS]
    return np.clip(np.round(frequencies * STEPS), -127, 127).astype(np.int8)
