"""A tiny service: an untrained 16-pixel network behind the real application."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from tasks.data.decode import image_from_bytes
from tasks.models.architectures import ModelSpec, build
from tasks.serving.app import create_app
from tasks.serving.champion import Champion
from tasks.serving.log import RequestLog
from tasks.serving.service import Limits, Service

SIDE = 16
CLASSES = ("covid", "normal", "pneumonia")


def prepare(content: bytes) -> np.ndarray:
    return image_from_bytes(content, side=SIDE, channels=1, remedy="none", border_fraction=0.05, corner_fraction=0.1)


def make_champion(output: str = "scores") -> Champion:
    spec = ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=SIDE)
    return Champion(build(spec, seed=3), spec, "tiny", "7", "ab" * 32, output)


def make_client(folder: Path, output: str = "scores", **limits) -> TestClient:
    log = RequestLog(folder / "requests.db", max_rows=10_000, max_days=30)
    limits = {"max_request_bytes": 200_000, "max_images": 4, **limits}
    service = Service(make_champion(output), prepare, Limits(**limits), log)
    return TestClient(create_app(service, versions={"gatehouse": "0"}))


def picture(mode: str = "L", size: tuple[int, int] = (40, 30), kind: str = "PNG", seed: int = 0) -> bytes:
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}.get(mode, 1)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    base = Image.fromarray(pixels.squeeze(-1)) if channels == 1 else Image.frombytes(mode, size, pixels.tobytes())
    buffer = io.BytesIO()
    (base if base.mode == mode else base.convert(mode)).save(buffer, kind)
    return buffer.getvalue()


def records(*files: bytes) -> dict:
    return {"dataframe_records": [{"image": base64.b64encode(f).decode()} for f in files]}


def tensors(n: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 1, SIDE, SIDE)).astype(np.float32)
