"""A small clean set for inspecting somebody's model: class folders of images, brought to what the model takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.data.decode import UnreadableImageError, image_from_bytes
from tasks.data.sources import Record
from tasks.data.sources.folder import folder, label_key
from tasks.errors import GatehouseError

LEAST, LEAST_OF_A_CLASS = 100, 20


@dataclass(frozen=True)
class CleanSet:
    """uint8 images (n, channels, side, side), labels (n,) as indices of the model's classes, and what was left out."""

    images: np.ndarray
    labels: np.ndarray
    unreadable: tuple[str, ...]


def read_clean_set(
    root: Path, classes: tuple[str, ...], *, channels: int, image_size: int, limit: int, seed: int
) -> CleanSet:
    """About `limit` images of class folders below `root`, the same share of every class as there.

    Folder names and classes are compared without regard to case and punctuation.

    Raises:
        GatehouseError: a class of the model has no folder, a folder is no class of the model, or too few images.
    """
    records = folder(str(root), ".")
    known = {label_key(c): i for i, c in enumerate(classes)}
    counts = Counter(r.label for r in records)
    if missing := [c for c in classes if label_key(c) not in counts]:
        raise GatehouseError(
            f"{root} has no images of the teacher's class {missing[0]!r}; it needs a folder for each of "
            f"{', '.join(classes)}, and has {', '.join(sorted(counts))}. A card that gives a number of classes alone "
            "can list their names instead, in the order of its outputs."
        )
    if strange := sorted(counts.keys() - known.keys()):
        raise GatehouseError(
            f"{root} has a folder {strange[0]!r}, which is no class of the teacher ({', '.join(classes)}); "
            "move it away."
        )
    images, labels, unreadable = [], [], []
    for record in _chosen(records, limit, seed):
        content = record.load()
        if not isinstance(content, bytes):
            raise TypeError("a folder's records hold bytes")
        try:
            image = image_from_bytes(
                content, side=image_size, channels=channels, remedy="none", border_fraction=0.0, corner_fraction=0.0
            )
        except UnreadableImageError:
            unreadable.append(record.path)
            continue
        images.append(image)
        labels.append(known[record.label])
    found = np.bincount(np.array(labels, dtype=np.int64), minlength=len(classes))
    if len(labels) < LEAST or found.min() < LEAST_OF_A_CLASS:
        told = ", ".join(f"{c} {n}" for c, n in zip(classes, found, strict=True))
        raise GatehouseError(
            f"{root} gives {len(labels)} readable images ({told}); vetting needs {LEAST}, and {LEAST_OF_A_CLASS} of "
            "every class: add images or raise --images."
        )
    return CleanSet(np.stack(images), np.array(labels, dtype=np.int64), tuple(unreadable))


def _chosen(records: list[Record], limit: int, seed: int) -> list[Record]:
    """At most `limit` records, drawn class by class in proportion, but LEAST_OF_A_CLASS of each where there are."""
    if len(records) <= limit:
        return records
    rng = np.random.default_rng(seed)
    chosen: list[Record] = []
    for label in sorted({r.label for r in records}):
        own = [r for r in records if r.label == label]
        take = min(len(own), max(LEAST_OF_A_CLASS, round(limit * len(own) / len(records))))
        chosen += [own[i] for i in np.sort(rng.permutation(len(own))[:take])]
    return chosen
