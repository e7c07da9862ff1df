"""Folders of JPEG and PNG files: class folders, as they are or as Kaggle's chest X-ray sets unpack.

Understood below `root/path`:
    CLASS/*                     classes directly
    {train,val,test}/CLASS/*    declared splits (Kaggle's chest_xray)
    CLASS/images/*              with CLASS/masks beside, which is left out (Kaggle's COVID-19_Radiography_Dataset)
"""

from __future__ import annotations

import re
from pathlib import Path

from tasks.data.sources import Record
from tasks.errors import GatehouseError
from tasks.files import note_read

SUFFIXES = {".jpeg", ".jpg", ".png"}
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# How chest_xray names patients: person1946_bacteria_4874 and [NORMAL2-]IM-0115-0001. Bacteria and virus number their
# patients each from 1 (on the real set, two images of one number and different germs resemble each other no more than
# two strangers' do), so the germ belongs to the patient's name.
PATIENT = re.compile(r"^(person\d+_(?:bacteria|virus)|(?:NORMAL2-)?IM-\d+)(?=[_\-.])")


def folder(root: str, path: str) -> list[Record]:
    """Records of every image below `root/path`, sorted by path; other files (metadata, masks) are left out.

    Raises:
        GatehouseError: the folder is missing, holds no images, mixes layouts, or two class folders differ only in
            case, spaces or underscores.
    """
    top = Path(root) / path
    if not top.is_dir():
        raise GatehouseError(f"Data folder {top} does not exist; set data.root (DATA=FOLDER) and data.*_task.path.")
    subfolders = _folders(top)
    splits = [f for f in subfolders if f.name.lower() in SPLITS]
    records = []
    for parent in splits or [top]:
        split = SPLITS[parent.name.lower()] if splits else ""
        for class_folder in _folders(parent):
            images = class_folder / "images"
            for file in sorted((images if images.is_dir() else class_folder).iterdir()):
                if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith("."):
                    name = file.relative_to(root).as_posix()
                    records.append(Record(name, class_folder.name, split, patient(file.name), _Bytes(file)))
    if not records:
        raise GatehouseError(
            f"Data folder {top} holds no JPEG or PNG images in class folders; expected {path}/CLASS/*.jpeg, "
            f"{path}/CLASS/images/*.png or {path}/train/CLASS/*.jpeg."
        )
    return _with_labels(records, top)


def patient(file_name: str) -> str:
    """The patient that chest_xray's file names carry, or "" for names that carry none."""
    found = PATIENT.match(file_name)
    return found.group(1) if found else ""


def label_key(name: str) -> str:
    """How a class folder's name becomes a label: lower case, runs of other characters than letters and digits as _."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _with_labels(records: list[Record], top: Path) -> list[Record]:
    spelt: dict[str, set[str]] = {}
    for record in records:
        spelt.setdefault(label_key(record.label), set()).add(record.label)
    for names in spelt.values():
        # The same class may be spelt differently in different splits, never twice side by side.
        splits = [{r.split for r in records if r.label == n} for n in sorted(names)]
        if len(names) > 1 and set.intersection(*splits):
            raise GatehouseError(
                f"{top}: class folders {', '.join(map(repr, sorted(names)))} differ only in case, spaces or "
                "punctuation; rename or merge them."
            )
    return [Record(r.path, label_key(r.label), r.split, r.group, r.load) for r in records]


def _folders(parent: Path) -> list[Path]:
    return sorted(f for f in parent.iterdir() if f.is_dir() and not f.name.startswith((".", "__")))


class _Bytes:
    """Reads a file when called: a class, so that it can be told apart and sent to threads."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self) -> bytes:
        note_read(self.file)
        return self.file.read_bytes()
