"""Cards, archives and hostile files that the tests of teachers are made of."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from tasks.teachers.formats import LEGACY_TORCH
from tasks.teachers.offers import hostile_pickle

SIDE = 16
CLASSES = ("dark", "bright")


def card_content(**changes: Any) -> dict[str, Any]:
    """A card that passes every check as soon as its digest is right and it is signed."""
    content: dict[str, Any] = {
        "name": "candidate",
        "architecture": "simple_cnn",
        "file": "weights.safetensors",
        "sha256": "0" * 64,
        "format": "safetensors",
        "provider": {"name": "a provider", "trust": "known"},
        "licence": "MIT",
        "public": False,
        "training_data": {"name": "bright and dark", "disclosed": True},
        "classes": list(CLASSES),
        "channels": 1,
        "image_size": SIDE,
        "normalisation": {"mean": [0.5], "sd": [0.25]},
        "advised_freeze": "last",
    }
    return content | changes


class _Payload:
    """Pickled, it asks to call io.open; pickling it runs nothing."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def torch_zip(data_pkl: bytes, *extra: tuple[str, bytes], compress: bool = False) -> bytes:
    """An archive laid out as torch.save does."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        archive.writestr("weights/data.pkl", data_pkl)
        archive.writestr("weights/version", b"3\n")
        for name, content in extra:
            archive.writestr(name, content)
    return out.getvalue()


def torch_legacy(*pickles: bytes) -> bytes:
    """PyTorch's older layout: the magic number, then the pickles given."""
    return LEGACY_TORCH + b"".join(pickles)


PROTOCOL = pickle.dumps(1001, 2)
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)


def hostile_files(marker: Path) -> dict[str, bytes]:
    """Files that would create `marker` if their pickle were loaded by a trusting loader, in every wrapping we know."""
    bare, new = hostile_pickle(marker), pickle.dumps(_Payload(marker), 4)
    empty = pickle.dumps({}, 2)
    return {
        "bare": bare,
        "bare, protocol 4": new,
        "bare, protocol 0": pickle.dumps(_Payload(marker), 0),
        "zip": torch_zip(bare),
        "zip, protocol 4": torch_zip(new),
        "zip, compressed": torch_zip(bare, compress=True),
        "zip, second pickle": torch_zip(empty, ("weights/extra.pkl", bare)),
        "legacy, state": torch_legacy(PROTOCOL, SYSTEM, bare, pickle.dumps([], 2)),
        "legacy, system": torch_legacy(PROTOCOL, bare, empty, pickle.dumps([], 2)),
        "legacy, keys": torch_legacy(PROTOCOL, SYSTEM, empty, bare),
    }
