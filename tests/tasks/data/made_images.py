"""Small collections of images for the tests of tasks/data."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tasks.data.sources import Record
from tasks.params import Data

PARAMS = Path(__file__).parents[3] / "params.yaml"


def picture(seed: int, side: int = 48) -> np.ndarray:
    """Smooth gray noise, unlike that of any other seed; uint8 (side, side)."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def data_params(**changes: Any) -> Data:
    """The section `data` of params.yaml for the phantom at 32 pixels, with changes."""
    section = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["data"]
    base = {
        "source": "phantom",
        "root": "tasks/data/phantom.py",
        "image_size": 32,
        "channels": 1,
        "teacher_task": {"path": "pneumonia", "images": 40},
        "student_task": {"path": "covid", "images": 60},
        "remedy": "none",
        "declared_source": "made for a test",
    }
    return Data.model_validate({**section, **base, **changes})


def record(path: str, label: str, content: bytes | np.ndarray, *, split: str = "", group: str = "") -> Record:
    return Record(path, label, split, group, lambda: content)


def class_folders(root: Path, counts: dict[str, int], kind: str = "png", seed: int = 0) -> Path:
    """`root/LABEL/NUMBER.kind` for each label, every picture another; returns root."""
    number = seed
    for label, count in counts.items():
        folder = root / label
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            content = encoded(picture(number), "JPEG" if kind != "png" else "PNG")
            (folder / f"{i:03d}.{kind}").write_bytes(content)
            number += 1
    return root
