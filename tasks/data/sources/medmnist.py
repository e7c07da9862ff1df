"""MedMNIST: npz files at any of their sizes, read through the `medmnist` package, splits as declared there."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from tasks.data.sources import Record, row_of
from tasks.data.sources.folder import label_key
from tasks.errors import GatehouseError
from tasks.files import note_read
from tasks.models.vision import torchvision_models

SIZES = (28, 64, 128, 224)


def medmnist(root: str, flag: str, image_size: int) -> list[Record]:
    """Records of one MedMNIST set of single-label 2D images.

    Of the sizes that lie in `root` the smallest that is at least `image_size` is read, else the largest; if none is
    there the smallest fitting size is downloaded.

    Raises:
        GatehouseError: an unknown flag, a set of another kind, a missing file that cannot be downloaded, or a
            damaged one.
    """
    import medmnist as package

    flat = {f: i for f, i in package.INFO.items() if not f.endswith("3d") and "multi-label" not in i["task"]}
    if flag not in flat:
        raise GatehouseError(
            f"data.*_task.path = {flag!r} is no MedMNIST set of labelled 2D images; known: {', '.join(sorted(flat))}."
        )
    if not Path(root).is_dir():
        raise GatehouseError(f"Folder {root} of MedMNIST files does not exist; make it, or set data.root to another.")
    files = {size: Path(root) / f"{flag}{'' if size == 28 else f'_{size}'}.npz" for size in SIZES}
    there = [size for size in SIZES if files[size].exists()] or list(SIZES)
    size = next((s for s in there if s >= image_size), there[-1])
    names = {int(k): label_key(v) for k, v in flat[flag]["label"].items()}
    if len(set(names.values())) < len(names):  # names that differ in punctuation only
        names = {k: f"{k}_{v}" for k, v in names.items()}
    url = "url" if size == 28 else f"url_{size}"
    reader = getattr(package, flat[flag]["python_class"])
    if not files[size].exists():
        torchvision_models()  # MedMNIST downloads by a function of torchvision, which must be importable
    records = []
    note_read(files[size])
    for split in ("train", "val", "test"):
        try:
            part = reader(split=split, root=root, size=size, download=not files[size].exists())
        except RuntimeError as error:
            raise GatehouseError(
                f"{files[size]} does not exist and could not be downloaded; fetch it from {flat[flag][url]} "
                "and put it there."
            ) from error
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise GatehouseError(
                f"{files[size]} is no readable MedMNIST file ({error}); delete it and fetch it again."
            ) from error
        images, labels = part.imgs, np.asarray(part.labels).reshape(-1)
        records += [
            Record(f"{files[size].name}/{split}/{i:06d}", names[int(y)], split, "", partial(row_of, images, i))
            for i, y in enumerate(labels)
        ]
    return records
