"""Entries of a request log, and a log that is opened, written and closed."""

from __future__ import annotations

import time
from pathlib import Path

from tasks.serving.log import Entry, ImageEntry, RequestLog
from tasks.serving.statistics import STATISTICS

IMAGE = ImageEntry("cd" * 32, "covid", 0.93, tuple(0.1 * i for i in range(len(STATISTICS))), sketch=bytes(range(32)))


def entry(images: int = 1, when: float | None = None) -> Entry:
    return Entry(time.time() if when is None else when, "10.0.0.1", 200, "", "ab" * 32, 1.5, (IMAGE,) * images)


def write(path: Path, entries: list[Entry], **limits) -> RequestLog:
    log = RequestLog(path, **{"max_rows": 1000, "max_days": 30, **limits})
    for e in entries:
        assert log.put(e)
    log.close()
    return log
