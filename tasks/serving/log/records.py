"""What is kept of a request. Of an image that is a digest, the answer, a few figures and a sketch: never the image."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from tasks.serving.statistics import STATISTICS

REQUEST_COLUMNS = ("id", "time", "account", "status", "error", "model", "count", "latency_ms", "guards")
IMAGE_COLUMNS = (
    "id", "request", "sha256", "label", "score", *STATISTICS, "guard", "sketch", "time", "account", "model"
)  # fmt: skip


@dataclass(frozen=True)
class ImageEntry:
    """One image. A refused one has the guard that refused it, and label "" and score 0: it got no answer."""

    sha256: str  # of the image as the model sees it
    label: str
    score: float
    statistics: tuple[float, ...]  # in the order of STATISTICS
    sketch: bytes = b""  # see tasks.serving.sketch; empty where none is kept
    guard: str = ""


@dataclass(frozen=True)
class Entry:
    """One request. `error` is empty for an answer, otherwise the code of the refusal."""

    time: float  # seconds since 1970
    account: str
    status: int
    error: str
    model: str  # sha256 of the weights that answered
    latency_ms: float
    images: tuple[ImageEntry, ...] = ()
    guards: tuple[str, ...] = ()  # names of the guards that refused the request or one of its images

    @property
    def rows(self) -> int:
        return 1 + len(self.images)


@dataclass(frozen=True)
class History:
    """What a log holds from a moment on. `requests` has the columns of that table (`guards`: names with commas
    between); `images` those of its own and the request's time, account and model; `dropped` counts requests that were
    never written, since the log began."""

    requests: pd.DataFrame
    images: pd.DataFrame
    dropped: int
