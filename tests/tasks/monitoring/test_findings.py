"""What is said about the figures, how loudly, and on which page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tasks.monitoring.drift import Drift, compare
from tasks.monitoring.findings import Finding, Standing, findings
from tasks.monitoring.page import bars, render
from tasks.monitoring.requests import Account, RequestStatistics

NOW = datetime(2026, 5, 4, tzinfo=UTC)
PROVEN = Standing(name="model", version="3", sha256="ab" * 32, exists=True)


def statistics(**changes) -> RequestStatistics:
    content = {
        "window_hours": 24.0,
        "requests": 100,
        "answered": 100,
        "refused": 0,
        "images": 200,
        "requests_per_hour": 4.2,
        "account_count": 1,
        "accounts": (Account(account="a", requests=100, images=200, refused=0, images_in_busiest_hour=50),),
        "labels": {"covid": 200},
        "refusals": {},
        "repeated_images": 0,
        "models": {"ab" * 32: 100},
        "latency_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
    }
    return RequestStatistics(**{**content, **changes})


def drift(shift: float, n: int = 200, allowed: float = 0.2) -> Drift:
    rng = np.random.default_rng(0)
    reference = {"mean": rng.normal(size=400), "label": np.where(rng.random(400) < 0.5, "x", "<y>")}
    current = {"mean": rng.normal(shift, 1, n), "label": np.where(rng.random(n) < 0.5, "x", "<y>")}
    return compare(reference, current, allowed_share=allowed)


def found(standing=PROVEN, requests=None, moved=None, dropped=0, infrequent=True) -> tuple[Finding, ...]:
    return findings(
        standing,
        requests or statistics(),
        moved,
        dropped=dropped,
        infrequent=infrequent,
        frequent_images_per_hour=1000,
        now=NOW,
    )


def test_nothing_is_said_where_all_is_well():
    assert found(moved=drift(0.0)) == found(ends(days=30, seconds=1), moved=drift(0.0)) == ()


def ends(**left: int) -> Standing:
    return PROVEN.model_copy(update={"signed_by": "ab" * 32, "valid_until": NOW + timedelta(**left)})


busy = Account(account="b", requests=1, images=5000, refused=0, images_in_busiest_hour=1000)
CASES = {
    "key ends": ("warning", "signing key", {"standing": ends(days=30)}),
    "no champion": ("warning", "champion", {"standing": Standing(name="m", exists=False, problem="There is none.")}),
    "unproven": ("critical", "champion", {"standing": Standing(name="m", version="2", exists=True, problem="Forged.")}),
    "policy": ("warning", "champion", {"standing": PROVEN.model_copy(update={"policy_in_force": False})}),
    "silence": ("info", "requests", {"requests": statistics(requests=0, answered=0, images=0)}),
    "refusals": (
        "warning",
        "requests",
        {"requests": statistics(answered=80, refused=20, refusals={"BAD_REQUEST": 20})},
    ),
    "dropped": ("warning", "request log", {"dropped": 3}),
    "frequent": ("warning", "requests", {"requests": statistics(accounts=(busy,))}),
    "drift": ("warning", "drift", {"moved": drift(1.0)}),
    "allowed drift": ("info", "drift", {"moved": drift(1.0, allowed=0.5)}),
    "too few": ("info", "drift", {"moved": drift(1.0, n=5)}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_has_a_severity_a_reason_and_a_next_step(name):
    severity, about, situation = CASES[name]
    [finding] = found(**situation)
    assert (finding.severity, finding.about) == (severity, about)
    assert finding.reason
    assert finding.next_step


def test_frequent_queries_are_no_news_where_the_risk_answers_expect_them():
    assert found(requests=statistics(accounts=(busy,)), infrequent=False) == ()


def test_the_worst_comes_first():
    forged = Standing(name="m", version="2", exists=True, problem="Forged.")
    said = found(standing=forged, moved=drift(1.0, n=5), dropped=1)
    assert [f.severity for f in said] == ["critical", "warning", "info"]


def report(moved: Drift | None, requests: RequestStatistics, standing: Standing = PROVEN) -> dict:
    return {
        "created_at": "2026-01-01T00:00:00+00:00",
        "state": "ok",
        "champion": standing.model_dump(mode="json"),
        "requests": requests.model_dump(mode="json"),
        "dropped": 0,
        "drift": moved.model_dump(mode="json") if moved else None,
        "gates": [],
        "feed": {"source": ""},
        "advisories": [],
        "incidents": [],
        "assets": None,
        "findings": [f.model_dump(mode="json") for f in found(standing=standing, moved=moved)],
    }


def test_the_page_shows_figures_loads_nothing_and_escapes_strangers_words():
    stranger = Account(account="<script>alert(1)</script>", requests=1, images=1, refused=0, images_in_busiest_hour=1)
    page = render(report(drift(1.0), statistics(accounts=(stranger,))))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;y&gt;" in page
    assert "The input drifted: 1 of 2 statistics moved (mean)" in page
    assert not [word for word in ("http://", "https://", "src=", "url(", "@import") if word in page]
    assert page.count("<svg") == 2


def test_the_page_works_without_requests_drift_or_champion():
    empty = statistics(
        requests=0,
        answered=0,
        images=0,
        account_count=0,
        accounts=(),
        labels={},
        latency_ms=dict.fromkeys(("p50", "p95", "p99")),
    )
    nobody = Standing(name="m", exists=False, problem="There is none.")
    page = render(report(None, empty, nobody))
    assert "All is well" in page
    assert "There is none." in page
    assert "None ms" not in page


def test_bars_stay_inside_their_picture():
    [first, *_] = drift(1.0).statistics
    drawn = bars(first.model_dump())
    assert len(drawn) == 32
    assert max(b[4] for b in drawn) == pytest.approx(70)
    assert all(b[1] >= 0 and b[1] + b[3] <= 260 and abs(b[2] + b[4] - 70) < 0.02 for b in drawn)
