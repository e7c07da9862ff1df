"""Frequency and origin of requests (the study's 4.3.4): what may hint at a user who is up to something."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from tasks.gate import Frozen

HOUR = 3600.0
MAX_ACCOUNTS = 20
MAX_BARS = 48  # of requests over time


class Account(Frozen):
    account: str
    requests: int
    images: int
    refused: int
    images_in_busiest_hour: int


class Stretch(Frozen):
    """Requests of an hour, or of as many hours as make at most MAX_BARS of a window."""

    start: str
    answered: int
    refused: int


class RequestStatistics(Frozen):
    """Figures of one window. `accounts` holds the busiest; latencies are in milliseconds, `None` without requests."""

    window_hours: float
    requests: int
    answered: int
    refused: int
    images: int
    requests_per_hour: float
    account_count: int
    accounts: tuple[Account, ...]
    labels: dict[str, int]
    refusals: dict[str, int]
    guards: dict[str, int] = Field(default_factory=dict)  # requests in which a guard refused, by its name
    repeated_images: int  # images whose digest came before in the window
    models: dict[str, int]  # requests by digest of the model that took them
    latency_ms: dict[str, float | None]
    hours: tuple[Stretch, ...] = ()


def request_statistics(
    requests: pd.DataFrame, images: pd.DataFrame, *, window_hours: float, end: float | None = None
) -> RequestStatistics:
    """Summarise a window of the request log.

    Args:
        requests: columns time (s), account, status, error, model, count, latency_ms, guards (names, commas).
        images: columns sha256, label.
        end: of the window, in seconds since 1970; None draws no course over time.
    """
    refused = requests["error"] != ""
    return RequestStatistics(
        window_hours=window_hours,
        requests=len(requests),
        answered=int((~refused).sum()),
        refused=int(refused.sum()),
        images=int(requests["count"].sum()),
        requests_per_hour=round(len(requests) / window_hours, 3),
        account_count=int(requests["account"].nunique()),
        accounts=_accounts(requests),
        labels=_counts(images.loc[images["label"] != "", "label"]),
        refusals=_counts(requests.loc[refused, "error"]),
        guards=_counts(requests.loc[requests["guards"] != "", "guards"].str.split(",").explode()),
        repeated_images=int(images["sha256"].duplicated().sum()),
        models=_counts(requests["model"]),
        latency_ms=_latencies(requests.loc[~refused, "latency_ms"]),
        hours=() if end is None else _course(requests["time"].to_numpy(float), refused.to_numpy(), window_hours, end),
    )


def _accounts(requests: pd.DataFrame) -> tuple[Account, ...]:
    found = []
    for account, own in requests.groupby("account", sort=True):
        hourly = own["count"].groupby((own["time"] // HOUR).astype("int64")).sum()
        found.append(
            Account(
                account=str(account),
                requests=len(own),
                images=int(own["count"].sum()),
                refused=int((own["error"] != "").sum()),
                images_in_busiest_hour=int(hourly.max()),
            )
        )
    return tuple(sorted(found, key=lambda a: (-a.images, -a.requests, a.account))[:MAX_ACCOUNTS])


def _course(times: np.ndarray, refused: np.ndarray, window_hours: float, end: float) -> tuple[Stretch, ...]:
    step = HOUR * max(1, math.ceil(window_hours / MAX_BARS))
    last = math.floor(end / step)
    first = math.floor((end - window_hours * HOUR) / step) + 1
    place = np.floor(times / step).astype(int)
    return tuple(
        Stretch(
            start=datetime.fromtimestamp(i * step, UTC).strftime("%Y-%m-%d %H:%M"),
            answered=int((~refused & (place == i)).sum()),
            refused=int((refused & (place == i)).sum()),
        )
        for i in range(first, last + 1)
    )


def _counts(values: pd.Series[Any]) -> dict[str, int]:
    return {str(k): int(v) for k, v in values.value_counts().sort_index().items()}


def _latencies(values: pd.Series[Any]) -> dict[str, float | None]:
    levels = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    if values.empty:
        return dict.fromkeys(levels)
    array = values.to_numpy(float)
    return {name: round(float(np.quantile(array, q)), 3) for name, q in levels.items()}
