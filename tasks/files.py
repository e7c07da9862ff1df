"""Reading and writing small files so that nothing half-written is ever seen: write beside, then rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import GatehouseError


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    note_read(path)
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def note_read(path: Path) -> None:
    """Announce a read that Python itself does not see (Rust and C++ readers), for the dependency test."""
    sys.audit("gatehouse.read", str(path))


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    Works for a file and for a folder (the caller makes which). A full or read-only disk becomes one clear sentence.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            _remove(path)  # os.replace cannot replace a folder that is not empty
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
            raise GatehouseError(
                f"Cannot write {path}: {error.strerror}; free some space or make the folder writable, then run again."
            ) from error
        raise
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (NaN is an error), keys in their own order, one trailing newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_yaml(path: Path, *, name: str, missing: str) -> Any:
    """Read YAML; a missing or malformed file is one clear sentence.

    Args:
        name: of the file, as a sentence about it begins.
        missing: the sentence where it does not exist.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GatehouseError(missing) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GatehouseError(f"{name} is not valid YAML: {' '.join(str(error).split())}.") from error


def read_json(path: Path) -> Any:
    """Read JSON; a missing or malformed file is one clear sentence."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GatehouseError(f"{path} does not exist; run `make run`, which makes it.") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise GatehouseError(f"{path} is not valid JSON ({error}); delete it and run `make run` again.") from error
