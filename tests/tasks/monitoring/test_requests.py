"""Request statistics over a small planted log."""

from __future__ import annotations

import pandas as pd
import pytest

from tasks.monitoring.requests import request_statistics
from tasks.serving.log import IMAGE_COLUMNS, REQUEST_COLUMNS

HOUR = 3600.0


def planted() -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = [(i, i * 60.0, "10.0.0.1", 200, "", "m1", 2, float(i), "") for i in range(100)]
    rows += [(200, 10.0, "10.0.0.2", 413, "BAD_REQUEST", "m1", 0, 1.0, "")]
    rows += [(201, 20.0, "10.0.0.2", 400, "INVALID_PARAMETER_VALUE", "m2", 0, 1.0, "budget,backdoor")] * 2
    labels = ["covid", "normal", "covid", "covid", ""]  # the last one was refused
    images = pd.DataFrame({"sha256": ["a", "b", "a", "a", "c"], "label": labels})
    return pd.DataFrame(rows, columns=list(REQUEST_COLUMNS)), images


def test_it_counts_what_was_planted():
    found = request_statistics(*planted(), window_hours=24)
    assert (found.requests, found.answered, found.refused, found.images) == (103, 100, 3, 200)
    assert found.requests_per_hour == pytest.approx(103 / 24, abs=0.001)
    assert found.refusals == {"BAD_REQUEST": 1, "INVALID_PARAMETER_VALUE": 2}
    assert found.guards == {"backdoor": 2, "budget": 2}
    assert found.labels == {"covid": 3, "normal": 1}
    assert found.repeated_images == 2
    assert found.models == {"m1": 101, "m2": 2}
    assert found.latency_ms == {"p50": 49.5, "p95": 94.05, "p99": 98.01}
    assert found.account_count == 2
    busiest, other = found.accounts
    assert (busiest.account, busiest.images, busiest.images_in_busiest_hour) == ("10.0.0.1", 200, 120)
    assert (other.account, other.requests, other.refused, other.images) == ("10.0.0.2", 3, 3, 0)


def test_an_empty_log_has_zeroes_and_no_latency():
    found = request_statistics(
        pd.DataFrame(columns=list(REQUEST_COLUMNS)), pd.DataFrame(columns=list(IMAGE_COLUMNS)), window_hours=24
    )
    assert (found.requests, found.images, found.repeated_images, found.accounts, found.labels) == (0, 0, 0, (), {})
    assert found.latency_ms == {"p50": None, "p95": None, "p99": None}


def test_only_the_busiest_accounts_are_listed():
    rows = [(i, 0.0, f"10.0.0.{i}", 200, "", "m", i, 1.0, "") for i in range(50)]
    found = request_statistics(
        pd.DataFrame(rows, columns=list(REQUEST_COLUMNS)), pd.DataFrame(columns=list(IMAGE_COLUMNS)), window_hours=1
    )
    assert found.account_count == 50
    assert [a.account for a in found.accounts] == [f"10.0.0.{i}" for i in range(49, 29, -1)]
