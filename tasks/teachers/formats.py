"""What a file really is, told by its first bytes, whatever its name and its card say. Nothing is loaded here."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile

# Formats that this project can load without running code; see loading.py.
SAFE = ("safetensors", "pth")

# What a file may turn out to be, in words for a reader.
FORMATS: dict[str, str] = {
    "safetensors": "a safetensors file",
    "pth": "a PyTorch state dict (zip archive, or the older stream of pickles)",
    "torchscript": "a TorchScript archive, which holds code",
    "pickle": "a bare pickle, which can run any code when it is loaded",
    "onnx": "an ONNX graph",
    "hdf5": "an HDF5 file (Keras and others)",
    "keras": "a Keras archive, which can hold code",
    "numpy": "a NumPy array file",
    "tflite": "a TensorFlow Lite graph",
    "gguf": "a GGUF file",
    "zip": "a zip archive of no known model format",
    "gzip": "a gzip archive",
    "tar": "a tar archive",
    "executable": "an executable program",
    "html": "a web page, as a failed download leaves",
    "lfs": "a Git LFS pointer, not the file itself",
    "empty": "an empty file",
    "unknown": "of no known format",
}

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"\x93NUMPY", "numpy"),
    (0, b"GGUF", "gguf"),
    (4, b"TFL3", "tflite"),
    (0, b"\x1f\x8b", "gzip"),
    (257, b"ustar", "tar"),
    (0, b"\x7fELF", "executable"),
    (0, b"MZ", "executable"),
    (0, b"version https://git-lfs", "lfs"),
    (0, b"<!DOCTYPE", "html"),
    (0, b"<html", "html"),
)
# The first pickle of PyTorch's format before 1.6 holds this number and nothing else.
LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def detect(data: bytes) -> str:
    """The key of FORMATS that the bytes are. Torch's own archives are told from bare pickles."""
    if not data:
        return "empty"
    for offset, magic, name in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return name
    if data.startswith(b"PK\x03\x04"):
        return _zip_kind(data)
    if data.startswith(LEGACY_TORCH):
        return "pth"
    if _is_safetensors(data):
        return "safetensors"
    if _is_pickle(data):
        return "pickle"
    return "onnx" if _is_onnx(data) else "unknown"


def _zip_kind(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError):
        return "zip"
    if any(n.endswith("/constants.pkl") or "/code/" in n for n in names):
        return "torchscript"
    if any(n.endswith("/data.pkl") for n in names):
        return "pth"
    if names and all(n.endswith(".npy") for n in names):
        return "numpy"
    return "keras" if "config.json" in names else "zip"


def _is_safetensors(data: bytes) -> bool:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or not 2 <= length <= len(data) - 8 or data[8:9] != b"{":
        return False
    try:
        return isinstance(json.loads(data[8 : 8 + length]), dict)
    except (ValueError, RecursionError):
        return False


def _is_pickle(data: bytes) -> bool:
    """Does a whole pickle stand at the start, or the header that only pickles have? Opcodes are read, not run."""
    if data[0] == 0x80 and len(data) > 1 and data[1] <= 5:
        return True
    try:
        return sum(1 for _ in pickletools.genops(io.BytesIO(data))) > 1
    except (ValueError, IndexError, KeyError, EOFError, OverflowError):
        return False


def _is_onnx(data: bytes) -> bool:
    """ONNX has no magic number: field 1 (ir_version, a small varint) followed by a text or graph field."""
    return len(data) > 3 and data[0] == 0x08 and 0 < data[1] < 32 and data[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)
