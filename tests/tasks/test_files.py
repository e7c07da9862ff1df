"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import sys
from pathlib import Path

import pytest

from tasks.errors import GatehouseError
from tasks.files import note_read, read_json, sha256_bytes, sha256_file, write_json, writing


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def begin(path: Path, error: Exception) -> None:
    """Write half a file, then fail."""
    with writing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_file_replaces_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="interrupted"):
        begin(path, RuntimeError("interrupted"))
    assert read_json(path) == {"a": 1}
    assert names(path.parent) == ["report.json"]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "task"
    for content in ("old", "new"):
        with writing(target) as temporary:
            temporary.mkdir()
            (temporary / f"{content}.txt").write_text(content)
    assert names(target) == ["new.txt"]
    assert names(tmp_path) == ["task"]


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_full_or_read_only_disk_is_one_clear_sentence(tmp_path: Path, code: int) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(GatehouseError, match=r"Cannot write .*a\.txt: .*; free some space"):
        begin(path, OSError(code, "the disk says no"))
    assert names(tmp_path) == []


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="odd"), writing(tmp_path / "a.txt"):
        raise OSError(errno.EIO, "odd")


def test_reading_json_that_is_missing_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(GatehouseError, match="does not exist; run `make run`"):
        read_json(path)
    for broken in (b"{", b"", b"\xff\xfe"):
        path.write_bytes(broken)
        with pytest.raises(GatehouseError, match="not valid JSON"):
            read_json(path)


def test_digests(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"weights" * 1000)
    assert sha256_file(path) == sha256_bytes(b"weights" * 1000) == hashlib.sha256(b"weights" * 1000).hexdigest()


def test_reads_that_python_does_not_see_are_announced() -> None:
    heard: list[object] = []
    sys.addaudithook(lambda event, args: heard.append(args[0]) if event == "gatehouse.read" else None)
    note_read(Path("models/x.safetensors"))
    assert "models/x.safetensors" in heard
