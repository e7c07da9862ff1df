"""A task's images as every later stage sees them: `manifest.parquet` and `images.npy` in one folder.

The manifest has a row an image: path, sha256, phash, label, split, group, width, height, mean, sd, source.
The array file holds uint8 images, shape (rows, channels, side, side), row i of one for row i of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.errors import GatehouseError
from tasks.files import note_read, read_json, sha256_file

MANIFEST = "manifest.parquet"
IMAGES = "images.npy"
CLASSES = "classes.json"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """Images of one task. `labels` index `classes`; `split` holds train, val or test for each row."""

    classes: tuple[str, ...]
    images: np.ndarray  # uint8 (n, channels, side, side), memory-mapped
    labels: np.ndarray  # int64 (n,)
    split: np.ndarray  # str (n,)
    manifest: pd.DataFrame
    sha256: str  # of the manifest file

    def part(self, split: str, limit: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Images (uint8) and labels of a split; `limit` > 0 takes a seeded sample that keeps class shares."""
        rows = np.flatnonzero(self.split == split)
        if 0 < limit < len(rows):
            rows = stratified(rows, self.labels[rows], limit, seed)
        return np.ascontiguousarray(self.images[rows]), self.labels[rows]


def stratified(rows: np.ndarray, labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """A sorted sample of about `limit` rows with at least one row of every class."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        own = rows[labels == label]
        take = max(1, round(limit * len(own) / len(rows)))
        chosen.append(rng.choice(own, size=min(take, len(own)), replace=False))
    return np.sort(np.concatenate(chosen))


def load_dataset(folder: Path) -> Dataset:
    """Read what the data stage wrote; raises GatehouseError where it is missing or inconsistent."""
    path = folder / MANIFEST
    if not path.exists():
        raise GatehouseError(f"{path} does not exist; run `make run`, which makes it.")
    classes = tuple(read_json(folder / CLASSES))
    note_read(path)
    manifest = pd.read_parquet(path)
    images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
    if len(images) != len(manifest):
        raise GatehouseError(
            f"{folder}: {len(images)} images but {len(manifest)} manifest rows; run the data stage again."
        )
    labels = manifest["label"].map({c: i for i, c in enumerate(classes)}).to_numpy()
    return Dataset(
        classes, images, labels.astype(np.int64), manifest["split"].to_numpy(str), manifest, sha256_file(path)
    )
