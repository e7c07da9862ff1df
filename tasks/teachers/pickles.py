"""Reading the pickles inside PyTorch's own files without running them.

A state dict needs a handful of names (tensor builders, storage types, OrderedDict). A file that asks for any other is
refused here, before PyTorch sees it; `torch.load(weights_only=True)` is the second wall behind this one.
"""

from __future__ import annotations

import io
import pickletools
import zipfile

from tasks.teachers.formats import LEGACY_TORCH

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
    | {f"torch {kind}Storage" for kind in _STORAGES}
)
# Opcodes that import or build by other ways than a plain GLOBAL; torch.save writes none of them by default.
_FORBIDDEN = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})
_LEGACY_PICKLES = 5  # magic number, protocol, system, the state dict, storage keys; raw storages follow
_UNREADABLE = (ValueError, IndexError, KeyError, EOFError, OverflowError, UnicodeDecodeError)


def inspect(data: bytes) -> str:
    """Why a `.pth` file must not be loaded, in words; empty where nothing speaks against it."""
    if data.startswith(LEGACY_TORCH):
        return _inspect_stream(io.BytesIO(data), _LEGACY_PICKLES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _inspect_archive(archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, *_UNREADABLE) as error:
        return f"the archive cannot be read ({error})"


def _inspect_archive(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if len(set(names)) != len(names):
        return "the archive holds one name twice"
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        return "the archive is compressed, which torch.save never does"
    pickles = [n for n in names if n.lower().endswith((".pkl", ".pickle", ".py", ".pt", ".pth"))]
    if len(pickles) != 1 or not pickles[0].endswith("/data.pkl") or pickles[0].count("/") != 1:
        return f"the archive holds {', '.join(pickles) or 'no data.pkl'} where one data.pkl belongs"
    return _inspect_stream(io.BytesIO(archive.read(pickles[0])), 1)


def _inspect_stream(stream: io.BytesIO, count: int) -> str:
    """Opcodes of `count` pickles in a row; reading stops at the first thing a state dict does not need."""
    try:
        for _ in range(count):
            for opcode, argument, _position in pickletools.genops(stream):
                if opcode.name == "GLOBAL" and argument not in ALLOWED:
                    return f"its pickle asks for {str(argument).replace(' ', '.')}, which no state dict needs"
                if opcode.name in _FORBIDDEN:
                    return f"its pickle builds objects by {opcode.name}, which no state dict of torch.save does"
    except _UNREADABLE as error:
        return f"its pickle cannot be read ({error})"
    return ""
