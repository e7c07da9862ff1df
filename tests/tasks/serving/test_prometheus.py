"""What Prometheus reads: counts agree with what was asked, in its own format, and say nothing of who asked or what."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from serving_tools import CLASSES, make_client, tensors


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (s.name, *(s.labels[k] for k in sorted(s.labels))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_counts_are_those_of_the_requests(tmp_path: Path) -> None:
    with make_client(tmp_path) as client:
        for n in (1, 3):
            assert client.post("/invocations", json={"inputs": tensors(n).tolist()}).status_code == 200
        assert client.post("/invocations", json={"inputs": [[1]]}).status_code == 400
        assert client.post("/invocations", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        response = client.get("/metrics")
        again = make_client(tmp_path / "other").get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    found = samples(response.text)
    assert found["gatehouse_requests_total", "", "200"] == 2
    assert sum(v for k, v in found.items() if k[0] == "gatehouse_requests_total") == 4
    assert found["gatehouse_images_total",] == 4
    assert found["gatehouse_request_seconds_count",] == 4
    assert found["gatehouse_log_dropped",] == 0
    assert found["gatehouse_model", "tiny", "ab" * 32, "7"] == 1
    assert "testclient" not in response.text
    assert not any(label in response.text for label in CLASSES)
    assert "gatehouse_images_total 0.0" in again.text  # another service counts for itself
