"""Where images come from: three sources behind one interface, a list of raw records.

A record is read lazily: nothing is decoded before the manifest is built, and one that cannot be read costs itself only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.errors import GatehouseError
from tasks.params import Data, Task

DECLARED_SPLITS = ("", "train", "val", "test")


@dataclass(frozen=True)
class Record:
    """One image as its source declares it.

    `path` names it uniquely within the source. `split` and `group` (patient) are empty where the source declares none.
    `load` returns the bytes of a JPEG or PNG file, or a uint8 array of shape (h, w) or (h, w, 3).
    """

    path: str
    label: str
    split: str
    group: str
    load: Callable[[], bytes | np.ndarray]


def row_of(images: np.ndarray, row: int) -> np.ndarray:
    """One image of an array source; bound to its arguments it is a record's `load`."""
    return images[row]


def open_source(data: Data, task: Task, *, seed: int) -> list[Record]:
    """The records of a task, sorted by path, at most `task.images` of them (0: all; the phantom draws so many).

    Raises:
        GatehouseError: nothing is found there, fewer than two classes, or too few images to split.
    """
    from tasks.data.sources.folder import folder
    from tasks.data.sources.medmnist import medmnist
    from tasks.data.sources.phantom import phantom

    if data.source == "phantom":
        records = phantom(data, task, seed=seed)
    elif data.source == "folder":
        records = folder(data.root, task.path)
    else:
        records = medmnist(data.root, task.path, data.image_size)
    records = sorted(records, key=lambda r: r.path)
    _check(records, data, task)
    if data.source != "phantom" and 0 < task.images < len(records):
        records = sample(records, task.images, seed=seed)
    return records


def sample(records: list[Record], images: int, *, seed: int) -> list[Record]:
    """About so many records, whole groups at a time, keeping the shares of label and declared split."""
    rng = np.random.default_rng(seed)
    strata: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        units = strata.setdefault((record.label, record.split), {})
        units.setdefault(record.group or record.path, []).append(record)
    chosen: list[Record] = []
    for units in strata.values():
        wanted = max(1, round(images * sum(map(len, units.values())) / len(records)))
        names = sorted(units)
        taken = 0
        for i in rng.permutation(len(names)):
            if taken >= wanted:
                break
            chosen += units[names[i]]
            taken += len(units[names[i]])
    return sorted(chosen, key=lambda r: r.path)


def _check(records: list[Record], data: Data, task: Task) -> None:
    where = f"{data.source} {data.root}, {task.path!r}"
    labels = {r.label for r in records}
    if not records:
        raise GatehouseError(f"No image was found in {where}; set data.root and data.*_task.path to where they are.")
    if len(labels) == 1:
        raise GatehouseError(
            f"Only one class, {labels.pop()!r}, was found in {where}; a task needs at least two class folders."
        )
