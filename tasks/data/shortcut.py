"""Is the label told by what surrounds the lungs? A probe, the remedies on offer, and what each costs.

DeGrave, Janizek and Lee 2021 show that models for COVID-19 learn such shortcuts from public sets; here the data are
asked before a model is trained. Gradient boosting sees only the pixels of the border, or only those of the corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tasks.data.dataset import stratified
from tasks.data.decode import Remedy, border_region, corner_region
from tasks.stats import bootstrap

TRAIN_LIMIT = 4000
TEST_LIMIT = 3000
COARSE_SIDE = 16


@dataclass(frozen=True)
class Told:
    """How well a label is told from some pixels. `gain` is (balanced accuracy − chance) / (1 − chance)."""

    pixels: int
    chance: float
    balanced_accuracy: float
    ci: tuple[float, float]
    n: int  # held-out images

    @property
    def gain(self) -> float:
        return self._gain(self.balanced_accuracy)

    @property
    def gain_ci(self) -> tuple[float, float]:
        return self._gain(self.ci[0]), self._gain(self.ci[1])

    def _gain(self, value: float) -> float:
        return (value - self.chance) / (1 - self.chance)

    def record(self) -> dict[str, Any]:
        """JSON-ready figures."""
        r = {"value": self.balanced_accuracy, "low": self.ci[0], "high": self.ci[1]}
        g = {"value": self.gain, "low": self.gain_ci[0], "high": self.gain_ci[1]}
        return {"pixels": self.pixels, "chance": self.chance, "n": self.n, "balanced_accuracy": r, "gain": g}


def probe(
    images: np.ndarray,
    labels: np.ndarray,
    split: np.ndarray,
    *,
    remedy: Remedy,
    border_fraction: float,
    corner_fraction: float,
    seed: int,
) -> dict[str, Told]:
    """The label from `border`, `corners`, and, for comparison, from the whole image at 16×16 pixels (`coarse`).

    After a crop, border and corners are those of the cropped image; after masking, the pixels just inside the mask:
    masked pixels are constant and would tell nothing whatever is left beside them.

    Args:
        images: uint8 (n, channels, side, side), the remedy already applied. labels: int (n,). split: str (n,).
    """
    side = images.shape[-1]
    masked = remedy == "mask_corners"
    ring = border_region(side, border_fraction, inset=border_fraction if masked else 0.0)
    squares = corner_region(side, corner_fraction, inset=corner_fraction if masked else 0.0)
    train = _rows(split == "train", labels, TRAIN_LIMIT, seed)
    test = _rows(split == "test", labels, TEST_LIMIT, seed)
    seen = {
        "border": images[:, :, ring].reshape(len(images), -1),
        "corners": images[:, :, squares].reshape(len(images), -1),
        "coarse": coarse(images),
    }
    return {name: told(x[train], labels[train], x[test], labels[test], seed=seed) for name, x in seen.items()}


def told(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, *, seed: int) -> Told:
    """Fit gradient boosting on (x, y), shapes (n, d) and (n,), and judge it on held-out rows."""
    model = HistGradientBoostingClassifier(
        max_iter=40,
        learning_rate=0.2,
        max_leaf_nodes=15,
        min_samples_leaf=15,
        max_features=0.3,
        l2_regularization=1.0,
        early_stopping=False,
        class_weight="balanced",
        random_state=seed,
    )
    # One thread: OpenMP's wait busily for each other, and lose far more than they gain where the machine is shared.
    with threadpool_limits(1, user_api="openmp"):
        predicted = model.fit(x, y).predict(x_test)
    return Told(
        pixels=x.shape[1],
        chance=1 / len(np.unique(y)),
        balanced_accuracy=balanced_accuracy(predicted, y_test),
        ci=bootstrap(balanced_accuracy, predicted, y_test, seed=seed),
        n=len(y_test),
    )


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean recall over the classes that occur in `labels`, both int (n,)."""
    seen = np.bincount(labels)
    right = np.bincount(labels[predicted == labels], minlength=len(seen))
    return float((right[seen > 0] / seen[seen > 0]).mean())


def coarse(images: np.ndarray, side: int = COARSE_SIDE) -> np.ndarray:
    """Area means over a side × side grid, rounded to uint8 (n, channels · side · side)."""
    size = images.shape[-1]
    edges = np.linspace(0, size, side + 1).round().astype(int)
    rows = np.add.reduceat(images.astype(np.float32), edges[:-1], axis=2)
    cells = np.add.reduceat(rows, edges[:-1], axis=3)
    area = np.diff(edges)[:, None] * np.diff(edges)[None, :]
    return np.round(cells / area).astype(np.uint8).reshape(len(images), -1)


def _rows(where: np.ndarray, labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    rows = np.flatnonzero(where)
    return stratified(rows, labels[rows], limit, seed) if len(rows) > limit else rows
