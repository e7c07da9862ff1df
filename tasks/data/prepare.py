"""From a reading to what every later stage loads: cleaned, split, in a manifest and one array file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.data.build import Reading
from tasks.data.cleaning import Cleaned, clean
from tasks.data.dataset import CLASSES, IMAGES, MANIFEST
from tasks.data.duplicates import near_pairs, near_pairs_between
from tasks.data.expectations import COLUMNS
from tasks.data.splits import split
from tasks.errors import GatehouseError
from tasks.files import writing
from tasks.params import Data

MIN_IMAGES_OF_A_CLASS = 10


@dataclass(frozen=True)
class Prepared:
    """A task's data, ready to be written. Row i of `manifest` belongs to row i of `images`."""

    reading: Reading
    cleaned: Cleaned
    classes: tuple[str, ...]
    manifest: pd.DataFrame
    images: np.ndarray  # uint8 (n, channels, side, side), with the remedy of the parameters

    @property
    def labels(self) -> np.ndarray:
        """Class indices, int64 (n,)."""
        return self.manifest["label"].map({c: i for i, c in enumerate(self.classes)}).to_numpy(np.int64)


def prepare_task(reading: Reading, data: Data, *, seed: int) -> Prepared:
    """Clean, split and describe a task's images.

    Raises:
        GatehouseError: fewer than two classes, or too few images of one, are left; or a class misses a split.
    """
    cleaned = clean(reading, near_duplicate_bits=data.near_duplicate_bits)
    rows = cleaned.rows
    labels = reading.labels[rows]
    names, counts = np.unique(labels, return_counts=True)
    before = sorted({r.label for r in reading.records} | {q.label for q in reading.unreadable})
    if gone := sorted(set(before) - set(names.tolist())):
        raise GatehouseError(
            f"No image of class {gone[0]!r} is usable: all were unreadable, blank, copies or under two labels; "
            "obtain the images again or leave the class out."
        )
    if counts.min() < MIN_IMAGES_OF_A_CLASS:
        raise GatehouseError(
            f"Class {str(names[counts.argmin()])!r} has {counts.min()} usable images; at least {MIN_IMAGES_OF_A_CLASS} "
            "are needed to train, choose and test. Add images or raise data.*_task.images."
        )
    splits = split(
        labels,
        cleaned.units,
        cleaned.declared,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        seed=seed,
    )
    manifest = pd.DataFrame(
        {
            "path": [reading.records[r].path for r in rows],
            "sha256": reading.sha256[rows],
            "phash": [f"{p:016x}" for p in reading.phash[rows].tolist()],
            "label": labels,
            "split": splits,
            "group": [reading.records[r].group for r in rows],
            "width": reading.width[rows],
            "height": reading.height[rows],
            "mean": reading.mean[rows],
            "sd": reading.sd[rows],
            "source": data.declared_source,
        },
        columns=list(COLUMNS),
    )
    return Prepared(reading, cleaned, tuple(names.tolist()), manifest, reading.images[data.remedy][rows])


def save(prepared: Prepared, folder: Path) -> None:
    """Write the folder that `load_dataset` reads, whole or not at all."""
    with writing(folder) as temporary:
        temporary.mkdir()
        prepared.manifest.to_parquet(temporary / MANIFEST, index=False)
        np.save(temporary / IMAGES, prepared.images, allow_pickle=False)
        (temporary / CLASSES).write_text(json.dumps(prepared.classes) + "\n", encoding="utf-8")


def leaks(prepared: Prepared, *, near_duplicate_bits: int) -> dict[str, int]:
    """How many pictures, near copies (pairs) and groups stand in two splits of what is to be written.

    Counted anew from the manifest and the pixels, whatever cleaning and splitting meant to do.
    """
    rows = prepared.cleaned.rows
    splits = prepared.manifest["split"].to_numpy(str)
    frame = pd.DataFrame(
        {"content": prepared.reading.content[rows], "group": prepared.manifest["group"], "split": splits}
    )
    images = next(iter(prepared.reading.images.values()))[rows]
    pairs = near_pairs(prepared.reading.phash[rows], images, near_duplicate_bits)
    named = frame[frame["group"] != ""]
    return {
        "pictures": int((frame.groupby("content")["split"].nunique() > 1).sum()),
        "near_copies": int((splits[pairs[:, 0]] != splits[pairs[:, 1]]).sum()),
        "groups": int((named.groupby("group")["split"].nunique() > 1).sum()),
    }


@dataclass(frozen=True)
class Overlap:
    """Which of the student's readable images the teacher's training data hold; bool (n,) each, over the reading."""

    exact: np.ndarray  # the same bytes, or the same pixels
    near: np.ndarray  # not exact, but a near copy
    labels: np.ndarray  # str (n,)

    @property
    def either(self) -> np.ndarray:
        return self.exact | self.near

    def by_class(self) -> dict[str, dict[str, int]]:
        return {
            str(label): {
                "images": int((self.labels == label).sum()),
                "exact": int((self.exact & (self.labels == label)).sum()),
                "near": int((self.near & (self.labels == label)).sum()),
            }
            for label in np.unique(self.labels)
        }


def overlap(student: Reading, teacher: Reading, *, near_duplicate_bits: int) -> Overlap:
    """The student's images among the teacher's declared training data: all that is not declared as test data.

    Compared by bytes, by decoded pixels, and by perceptual hash confirmed on pixels (files that were resized or
    compressed anew). Copies that the student's cleaning drops are counted too.
    """
    trained = np.array([r.split != "test" for r in teacher.records], dtype=bool)
    exact = np.isin(student.sha256, teacher.sha256[trained]) | np.isin(student.content, teacher.content[trained])
    first = next(iter(student.images))
    pairs = near_pairs_between(
        student.phash,
        student.images[first],
        teacher.phash[trained],
        teacher.images[first][trained],
        near_duplicate_bits,
    )
    near = np.zeros(len(exact), dtype=bool)
    near[pairs[:, 0]] = True
    near &= ~exact & ~student.blank
    return Overlap(exact & ~student.blank, near, student.labels)
