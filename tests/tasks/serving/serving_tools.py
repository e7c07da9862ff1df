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
from tasks.risk import Budget
from tasks.serving.app import create_app
from tasks.serving.champion import Champion
from tasks.serving.keys import KeyRing
from tasks.serving.log import RequestLog
from tasks.serving.service import Deployment, Limits, Service

SIDE = 16
CLASSES = ("covid", "normal", "pneumonia")


def prepare(content: bytes) -> np.ndarray:
    return image_from_bytes(content, side=SIDE, channels=1, remedy="none", border_fraction=0.05, corner_fraction=0.1)


def make_champion(output: str = "scores", *, version: str = "7", seed: int = 3, guards=()) -> Champion:
    spec = ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=SIDE)
    return Champion(build(spec, seed=seed), spec, "tiny", version, "ab" * 32, output, guards)


def make_client(
    folder: Path, output: str = "scores", *, guards=(), required=False, budget: Budget | None = None, **limits
) -> TestClient:
    """A client of a service of its own; its parts are `client.app.state.deployment`, and keys lie in `folder`."""
    log = RequestLog(folder / "requests.db", max_rows=10_000, max_days=30)
    limits = {"max_request_bytes": 200_000, "max_images": 4, **limits}
    service = Service(make_champion(output, guards=guards), prepare, Limits(**limits), log, budget or Budget())
    ring = KeyRing(folder / "api_keys.json", required=required)
    return TestClient(create_app(Deployment(service), versions={"gatehouse": "0"}, keys=ring))


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
