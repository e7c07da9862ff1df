"""What waits to be written, kept in files too: a service that is killed finds it there when it starts again.

Each batch of entries has a file of its own, a line an entry, appended before the answer leaves and deleted once the
database has the batch. Lines reach the operating system and are not forced to the disk: they outlive the process, not a
power cut. Batches keep their writer's name and number, by which the store knows one that it has already.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tasks.serving.log.records import Entry, ImageEntry

ENTRIES, LOCK = ".jsonl", ".lock"


@dataclass
class Batch:
    """Entries that are written together. `file` is None where no journal is kept."""

    writer: str
    number: int
    entries: list[Entry] = field(default_factory=list)
    torn: int = 0  # lines of the file that cannot be read: their entries are lost
    file: Path | None = None
    _descriptor: int | None = None

    def add(self, entry: Entry) -> None:
        """Keep an entry; an OSError leaves it kept in memory alone, and the file as it was."""
        self.entries.append(entry)
        if self.file is None:
            return
        if self._descriptor is None:
            self._descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        line = (json.dumps(asdict(entry), default=bytes.hex) + "\n").encode()
        length = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, line) < len(line):
                raise OSError("the line was written in part")
        except OSError:
            os.ftruncate(self._descriptor, length)
            raise

    @property
    def waits(self) -> bool:
        """Whether a file of it is left for another start."""
        return self.file is not None and self.file.exists()

    def done(self) -> None:
        """Delete the file: the database has the entries, or they are given up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self.file is not None:
            self.file.unlink(missing_ok=True)


class Journal:
    """The files of one writer in `folder`, and what writers that are gone have left there."""

    def __init__(self, folder: Path | None) -> None:
        self.writer = f"writer {uuid.uuid4().hex}"
        self._folder, self._number = folder, 0
        self._lock: int | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(self._path(LOCK))

    def batch(self) -> Batch:
        """A new batch, the next in number."""
        self._number += 1
        return Batch(self.writer, self._number, file=self._path(f".{self._number:012d}{ENTRIES}"))

    def left_behind(self) -> Iterator[list[Batch]]:
        """Each list the batches of a writer that lives no more, in order; its lock went with its process."""
        if self._folder is None:
            return
        for lock in sorted(self._folder.glob(f"*{LOCK}")):
            if (held := _locked(lock)) is None:
                continue
            if batches := [_read(file) for file in sorted(self._folder.glob(f"{lock.stem}.*{ENTRIES}"))]:
                yield batches
            self._let_go(lock, held)

    def close(self) -> None:
        """Let go of what this writer has written, and of its lock."""
        if self._lock is not None:
            self._let_go(self._path(LOCK), self._lock)

    def _let_go(self, lock: Path | None, held: int) -> None:
        """The lock's file stays while batches of its writer wait: by it they are found."""
        assert lock is not None
        if not any(lock.parent.glob(f"{lock.stem}.*{ENTRIES}")):
            lock.unlink(missing_ok=True)
        os.close(held)

    def _path(self, end: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{self.writer.split()[1]}{end}"


def _locked(path: Path | None) -> int | None:
    """A descriptor that holds the file's lock, or None where a living process has it."""
    assert path is not None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _read(file: Path) -> Batch:
    writer, number = file.stem.split(".")
    batch = Batch(f"writer {writer}", int(number), file=file)
    for line in file.read_bytes().splitlines():
        try:
            batch.entries.append(_entry(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            batch.torn += 1
    return batch


def _entry(kept: dict[str, object]) -> Entry:
    images = kept.pop("images")
    assert isinstance(images, list)
    found = tuple(
        ImageEntry(**{**i, "statistics": tuple(i["statistics"]), "sketch": bytes.fromhex(i["sketch"])}) for i in images
    )
    return Entry(**{**kept, "images": found, "guards": tuple(kept["guards"])})  # type: ignore[arg-type]
