"""Tensors out of a stranger's file. Nothing in the file is ever run."""

from __future__ import annotations

import io
import pickle  # the exception type alone; nothing is unpickled by it
import struct

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from tasks.errors import GatehouseError
from tasks.teachers import formats, pickles

# What torch.load was seen to raise on damaged files, beside its own UnpicklingError.
_DAMAGED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class UnsafeFileError(GatehouseError):
    """The file was refused; the message says why."""


def read_tensors(data: bytes, declared: str, *, source: str) -> dict[str, Tensor]:
    """The tensors of a `safetensors` or `pth` file, by name.

    Raises:
        UnsafeFileError: the bytes are not of the declared format, the format can run code, or a `.pth` holds more than
            a state dict. The refusal comes before any loader sees the file.
    """
    found = formats.detect(data)
    if found != declared:
        raise UnsafeFileError(f"{source} is {formats.FORMATS[found]}, not {formats.FORMATS[declared]}.")
    if found not in formats.SAFE:
        raise UnsafeFileError(f"{source} is {formats.FORMATS[found]}; offer it as {' or '.join(formats.SAFE)}.")
    if found == "safetensors":
        try:
            return load_safetensors(data)
        except SafetensorError as error:
            raise UnsafeFileError(f"{source} is a damaged safetensors file ({error}).") from error
    if reason := pickles.inspect(data):
        raise UnsafeFileError(f"{source} is refused unread: {reason}.")
    return _state_dict(data, source)


def _state_dict(data: bytes, source: str) -> dict[str, Tensor]:
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsafeFileError(f"{source} cannot be loaded as weights only ({reason}).") from error
    if not isinstance(content, dict) or not content:
        raise UnsafeFileError(f"{source} holds a {type(content).__name__}, not a state dict of named tensors.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise UnsafeFileError(f"{source} is no plain state dict: {name!r} is a {type(value).__name__}.")
    return {name: value.detach().clone().contiguous() for name, value in content.items()}
