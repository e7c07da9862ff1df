"""One proven champion, ready to answer: how images are prepared, what a request may cost, where it is logged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.serving.champion import Answer, Champion, answer
from tasks.serving.images import Prepare, decode
from tasks.serving.log import ImageEntry, RequestLog
from tasks.serving.protocol import Shape
from tasks.serving.sketch import sketches
from tasks.serving.statistics import digests, image_statistics


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    max_request_bytes: int
    max_images: int
    body_seconds: float = 30.0  # for the whole body: a client that trickles is let go
    scoring_threads: int = 1  # requests scored at once; the model itself may use several threads


@dataclass(frozen=True)
class Service:
    champion: Champion
    prepare: Prepare
    limits: Limits
    log: RequestLog

    @property
    def shape(self) -> Shape:
        spec = self.champion.spec
        return Shape(spec.channels, spec.image_size, self.limits.max_images)

    def decoded(self, files: list[bytes]) -> np.ndarray:
        """Files prepared as the champion's own training data were; RequestError for what is no image."""
        return decode(files, self.shape, self.prepare)

    def classified(self, images: np.ndarray) -> tuple[list[Answer], tuple[ImageEntry, ...]]:
        """Answers to float images (n, channels, side, side) in [0, 1], and what the log keeps of each."""
        answers = answer(self.champion, images)
        figures = np.round(image_statistics(images), 6).tolist()
        entries = (
            ImageEntry(digest, a.label, a.score, tuple(row), sketch.tobytes())
            for digest, a, row, sketch in zip(digests(images), answers, figures, sketches(images), strict=True)
        )
        return answers, tuple(entries)
