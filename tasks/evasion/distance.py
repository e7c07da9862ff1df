"""How far changed images are from their originals, as people and as norms see it."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor


def distances(x: Tensor, changed: Tensor) -> dict[str, float | None]:
    """Means over images of the structural dissimilarity, (1 − SSIM) / 2 in [0, 1] (Wang 2004), and the L2 distance.

    Args:
        x, changed: images in [0, 1], shape (n, channels, side, side).
    """
    if not len(x):
        return {"dssim": None, "l2": None}
    pairs = zip(x.numpy(), changed.numpy(), strict=True)
    alike = [structural_similarity(a, b, channel_axis=0, data_range=1.0) for a, b in pairs]
    norm = (changed - x).flatten(1).norm(dim=1).mean()
    return {"dssim": round(float((1 - np.mean(alike)) / 2), 6), "l2": round(float(norm), 6)}
