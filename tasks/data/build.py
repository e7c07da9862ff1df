"""Reading a source: every record decoded, measured and hashed, on threads; what cannot be read is set aside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagehash
import numpy as np

from tasks.data.decode import REMEDIES, Remedy, UnreadableImageError, decode, prepare
from tasks.data.sources import Record
from tasks.params import Data

Progress = Callable[[int, int], None]
BLANK_SD = 2.0  # gray levels: below it there is nothing to see


@dataclass(frozen=True)
class Quarantined:
    """A record that was dropped, and why."""

    path: str
    label: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Reading:
    """What was read of a source, in the records' order; row i of every array belongs to `records[i]`.

    `images` holds one array per remedy asked for, uint8 (n, channels, side, side). `sha256` is of the file's bytes, or
    of the array where the source holds arrays; `content` is of the decoded pixels at full size. `phash` is the 64-bit
    perceptual hash. `mean` and `sd` are gray levels of the whole image, 0 to 255.
    """

    records: tuple[Record, ...]
    images: dict[Remedy, np.ndarray]
    sha256: np.ndarray  # str (n,)
    content: np.ndarray  # str (n,)
    phash: np.ndarray  # uint64 (n,)
    width: np.ndarray
    height: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    unreadable: tuple[Quarantined, ...]

    @property
    def labels(self) -> np.ndarray:
        return np.array([r.label for r in self.records])

    @property
    def blank(self) -> np.ndarray:
        """True where an image holds nothing but one shade, shape (n,)."""
        return self.sd < BLANK_SD

    def digest(self) -> str:
        """Hex SHA-256 of paths, labels and contents: another digest under the same name is another source."""
        h = hashlib.sha256()
        rows = [(r.path, r.label, s) for r, s in zip(self.records, self.sha256, strict=True)]
        for row in sorted(rows + [(q.path, q.label, q.reason) for q in self.unreadable]):
            h.update("\0".join(row).encode() + b"\n")
        return h.hexdigest()


def read(
    records: list[Record],
    data: Data,
    *,
    remedies: tuple[Remedy, ...] = REMEDIES,
    threads: int = 2,
    progress: Progress | None = None,
) -> Reading:
    """Decode every record once and prepare it for each of the remedies.

    Args:
        progress: called with (done, total) now and then.
    """

    def one(record: Record) -> tuple[list[np.ndarray], tuple[object, ...]] | UnreadableImageError:
        try:
            content = record.load()
            image, size = decode(content, channels=data.channels, side=data.image_size)
        except UnreadableImageError as error:
            return error
        except OSError as error:
            return UnreadableImageError(f"cannot be opened: {error.strerror}")
        raw = content if isinstance(content, bytes) else _array_bytes(content)
        gray = image.convert("L")
        pixels = np.asarray(gray)
        prepared = [
            prepare(
                image,
                side=data.image_size,
                remedy=remedy,
                border_fraction=data.border_fraction,
                corner_fraction=data.corner_fraction,
            )
            for remedy in remedies
        ]
        phash = int(str(imagehash.phash(gray)), 16)
        facts = (
            hashlib.sha256(raw).hexdigest(),
            hashlib.sha256(_array_bytes(np.asarray(image))).hexdigest(),
            phash,
            *size,
            float(pixels.mean()),
            float(pixels.std()),
        )
        return prepared, facts

    kept, arrays, facts, bad = [], [], [], []
    with ThreadPoolExecutor(threads) as pool:
        for done, (record, found) in enumerate(zip(records, pool.map(one, records), strict=True), start=1):
            if isinstance(found, UnreadableImageError):
                bad.append(Quarantined(record.path, record.label, "unreadable", str(found)))
            else:
                kept.append(record)
                arrays.append(found[0])
                facts.append(found[1])
            if progress and (done % 200 == 0 or done == len(records)):
                progress(done, len(records))
    columns = list(zip(*facts, strict=True)) if facts else [()] * 7
    shape = (0, data.channels, data.image_size, data.image_size)
    return Reading(
        records=tuple(kept),
        images={
            remedy: np.stack([a[k] for a in arrays]) if arrays else np.empty(shape, np.uint8)
            for k, remedy in enumerate(remedies)
        },
        sha256=np.array(columns[0], dtype=str),
        content=np.array(columns[1], dtype=str),
        phash=np.array(columns[2], dtype=np.uint64),
        width=np.array(columns[3], dtype=np.int32),
        height=np.array(columns[4], dtype=np.int32),
        mean=np.array(columns[5], dtype=np.float32),
        sd=np.array(columns[6], dtype=np.float32),
        unreadable=tuple(bad),
    )


def _array_bytes(array: np.ndarray) -> bytes:
    return f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
