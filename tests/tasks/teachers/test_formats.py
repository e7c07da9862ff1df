from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from teacher_files import torch_zip

from tasks.teachers.formats import FORMATS, SAFE, detect


def numpy_file(save_array: Callable[..., None]) -> bytes:
    out = io.BytesIO()
    save_array(out, np.zeros(3))
    return out.getvalue()


def torch_file(*, new: bool) -> bytes:
    out = io.BytesIO()
    torch.save({"a": torch.ones(2)}, out, _use_new_zipfile_serialization=new)
    return out.getvalue()


def plain_zip(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "x")
    return out.getvalue()


FILES = {
    "safetensors": [save({"a": torch.ones(2)}), save({})],
    "pth": [torch_file(new=True), torch_file(new=False)],
    "torchscript": [torch_zip(b"", ("weights/constants.pkl", b""), ("weights/code/a.py", b""))],
    "pickle": [pickle.dumps([1, 2], protocol) for protocol in range(6)],
    "onnx": [b"\x08\x07\x12\x07pytorch\x1a\x032.0"],
    "hdf5": [b"\x89HDF\r\n\x1a\n" + bytes(40)],
    "numpy": [numpy_file(np.save), numpy_file(np.savez)],
    "tflite": [b"\x1c\x00\x00\x00TFL3" + bytes(20)],
    "gguf": [b"GGUF\x03\x00\x00\x00"],
    "keras": [plain_zip("config.json")],
    "zip": [plain_zip("notes.txt"), b"PK\x03\x04 broken"],
    "gzip": [b"\x1f\x8b\x08\x00"],
    "tar": [bytes(257) + b"ustar\x0000" + bytes(200)],
    "executable": [b"\x7fELF\x02\x01", b"MZ\x90\x00"],
    "html": [b"<!DOCTYPE html><html>", b"<html lang=en>"],
    "lfs": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0"],
    "empty": [b""],
    "unknown": [b"\x00\x01\x02\x03", b"Lorem ipsum dolor sit amet"],
}


@pytest.mark.parametrize(("name", "data"), [(n, d) for n, files in FILES.items() for d in files])
def test_detect(name: str, data: bytes) -> None:
    assert detect(data) == name


def test_every_format_is_tested_and_two_are_safe() -> None:
    assert FILES.keys() == FORMATS.keys()
    assert set(SAFE) == {"safetensors", "pth"}


@given(st.binary(max_size=200))
def test_detect_answers_any_bytes(data: bytes) -> None:
    assert detect(data) in FORMATS


@given(st.sampled_from([d for files in FILES.values() for d in files]), st.data())
def test_detect_answers_damaged_files(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))
    assert detect(data[:cut]) in FORMATS
    assert detect(data[:cut] + b"\xff" + data[cut + 1 :]) in FORMATS


def test_header_of_nested_brackets_is_not_safetensors() -> None:
    header = b'{"a":' + b"[" * 200_000
    assert detect(len(header).to_bytes(8, "little") + header) != "safetensors"
