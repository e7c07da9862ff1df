"""What is kept of an image instead of the image: a few figures that drift shows in, and a digest."""

from __future__ import annotations

import numpy as np

from tasks.files import sha256_bytes

STATISTICS = ("mean", "sd", "contrast", "edge_energy", "entropy")


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Figures of each image as the model sees it, shape (n, 5), in the order of STATISTICS.

    Args:
        images: float (n, channels, side, side) in [0, 1].

    Returns:
        mean brightness; standard deviation; contrast (95th minus 5th percentile); edge energy (mean absolute
        difference of neighbouring pixels); entropy of the 32-bin brightness histogram in bits.
    """
    n = len(images)
    if n == 0:
        return np.empty((0, len(STATISTICS)))
    gray = images.astype(np.float64).mean(1)
    flat = gray.reshape(n, -1)
    low, high = np.quantile(flat, [0.05, 0.95], axis=1)
    edges = (np.abs(np.diff(gray, axis=1)).mean((1, 2)) + np.abs(np.diff(gray, axis=2)).mean((1, 2))) / 2
    return np.stack([flat.mean(1), flat.std(1), high - low, edges, _entropy(flat)], axis=1)


def _entropy(flat: np.ndarray, bins: int = 32) -> np.ndarray:
    """Shannon entropy of each row's histogram over [0, 1], in bits."""
    level = np.minimum((flat * bins).astype(int), bins - 1)
    counts = np.zeros((len(flat), bins))
    np.add.at(counts, (np.arange(len(flat))[:, None], level), 1)
    share = counts / flat.shape[1]
    return np.abs(-(share * np.log2(np.where(share > 0, share, 1.0))).sum(1))


def digests(images: np.ndarray) -> list[str]:
    """Hex SHA-256 of each image's bytes as the model sees it: the same picture in another file gives the same."""
    return [sha256_bytes(np.ascontiguousarray(image).tobytes()) for image in images]
