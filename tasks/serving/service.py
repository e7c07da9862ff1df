"""One proven champion, ready to answer: how images are prepared, what a request may cost, where it is logged.

`Deployment` holds the one that answers now. It is replaced as a whole: a request that has begun keeps the one it had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.risk import Budget
from tasks.serving.champion import Answer, Champion, answer
from tasks.serving.errors import UNAVAILABLE, RequestError
from tasks.serving.images import Prepare, decode
from tasks.serving.log import ImageEntry, RequestLog
from tasks.serving.protocol import Shape
from tasks.serving.sketch import sketches
from tasks.serving.statistics import digests, image_statistics

NO_BUDGET = Budget()


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    max_request_bytes: int
    max_images: int
    body_seconds: float = 30.0  # for the whole body: a client that trickles is let go
    scoring_threads: int = 1  # requests scored at once; the model itself may use several threads
    waiting_requests: int = 64  # whole requests that may wait for that; further ones are told to come again
    waiting_bodies: int = 64  # largest bodies that may be in memory at once, in parts or whole


@dataclass(frozen=True)
class Service:
    champion: Champion
    prepare: Prepare
    limits: Limits
    log: RequestLog
    budget: Budget = NO_BUDGET

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


OUT_OF_SERVICE = "No model is in service: there is no champion that is proven, or it was withdrawn."


class Deployment:
    """Which service answers now, if any; replaced and taken away from another thread, in one assignment."""

    def __init__(self, service: Service) -> None:
        self.name = service.champion.name
        self.log = service.log
        self.limits = service.limits
        self._service: Service | None = service

    def current(self) -> Service:
        """Raises RequestError, 503, while nothing proven is in service."""
        service = self._service
        if service is None:
            raise RequestError(OUT_OF_SERVICE, code=UNAVAILABLE, status=503, headers={"Retry-After": "60"})
        return service

    @property
    def champion(self) -> Champion | None:
        service = self._service
        return service.champion if service else None

    def replace(self, service: Service | None) -> None:
        """From the next request on; None: nothing answers."""
        self._service = service
