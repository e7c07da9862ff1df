"""What Prometheus is told of the service: requests, refusals, latency, what the log lost, and which model answers.

Neither accounts nor labels: the first would grow without bound, the second are the answers of others.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tasks.serving.log import Entry
from tasks.serving.service import Deployment

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)  # of latency, ends of the buckets


class Meter:
    """Counts of one service; each service has a registry of its own."""

    def __init__(self, deployment: Deployment) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "gatehouse_requests", "Requests to score images, by status and error code",
            ("status", "error"), registry=self._registry,
        )  # fmt: skip
        self._images = Counter("gatehouse_images", "Images that were answered", registry=self._registry)
        self._seconds = Histogram(
            "gatehouse_request_seconds", "Time of a request, its body included", buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        lost = Gauge("gatehouse_log_dropped", "Requests that the log could not keep", registry=self._registry)
        lost.set_function(lambda: deployment.log.dropped)
        self._refused = Counter(
            "gatehouse_guard_refusals", "Requests with an image that this guard refused", ("guard",),
            registry=self._registry,
        )  # fmt: skip
        ready = Gauge("gatehouse_ready", "1 while a proven model is in service", registry=self._registry)
        ready.set_function(lambda: float(deployment.champion is not None))
        self._deployment = deployment
        self._model = Gauge(
            "gatehouse_model", "The model that answers", ("name", "version", "sha256"), registry=self._registry
        )

    def count(self, entry: Entry) -> None:
        """Count one request as the log is given it."""
        self._requests.labels(str(entry.status), entry.error).inc()
        self._images.inc(len(entry.images))
        self._seconds.observe(entry.latency_ms / 1000)
        for guard in entry.guards:
            self._refused.labels(guard).inc()

    def render(self) -> bytes:
        """All counts in Prometheus' text format."""
        self._model.clear()  # one that was replaced answers no more
        if champion := self._deployment.champion:
            self._model.labels(champion.name, champion.version, champion.sha256).set(1)
        return generate_latest(self._registry)
