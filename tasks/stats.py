"""Confidence intervals. Every gate compares the bad end of one of these with its threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Interval = tuple[float, float]


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact two-sided interval of a proportion (Clopper and Pearson 1934), in [0, 1]; (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, {n}], not {successes}")
    alpha = 1 - confidence
    low = 0.0 if successes == 0 else float(stats.beta.ppf(alpha / 2, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(1 - alpha / 2, successes + 1, n - successes))
    return low, high


def proportion(count: int, n: int) -> dict[str, float | int | None]:
    """A share and its exact interval, ready for JSON; the value is None where n is 0."""
    low, high = clopper_pearson(count, n)
    return {"value": round(count / n, 6) if n else None, "low": round(low, 6), "high": round(high, 6), "n": n}


def over_seeds(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean, and standard deviation with n − 1 in the denominator; None where there are too few values."""
    kept = [v for v in values if v is not None]
    mean = float(np.mean(kept)) if kept else None
    sd = float(np.std(kept, ddof=1)) if len(kept) > 1 else None
    return {"mean": None if mean is None else round(mean, 6), "sd": None if sd is None else round(sd, 6)}


def pooled(shares: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread of shares over seeds (each as `proportion` gives it), and the exact interval over all their n."""
    n = sum(s["n"] for s in shares)
    low, high = clopper_pearson(sum(round(s["value"] * s["n"]) for s in shares if s["n"]), n)
    return {**over_seeds([s["value"] for s in shares]), "low": round(low, 6), "high": round(high, 6), "n": n}


def bootstrap(
    statistic: Callable[..., float], *arrays: np.ndarray, seed: int, resamples: int = 500, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of `statistic(*arrays)`, resampling the arrays' first axis together.

    Resamples on which the statistic is undefined (NaN) are left out; if none is left the interval is (nan, nan).
    """
    rng = np.random.default_rng(seed)
    n = len(arrays[0])
    values = []
    for _ in range(resamples):
        rows = rng.integers(0, n, n)
        values.append(statistic(*(a[rows] for a in arrays)))
    kept = np.asarray(values, dtype=float)
    kept = kept[np.isfinite(kept)]
    if kept.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_difference(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Interval:
    """Normal interval of mean(a − b) over paired observations in [−1, 1], shape (n,).

    The variance carries one pseudo-observation at each extreme, so that n equal pairs do not give width zero.
    """
    d = np.concatenate([np.asarray(a, float) - np.asarray(b, float), [-1.0, 1.0]])
    n = len(d)
    half = float(stats.norm.ppf((1 + confidence) / 2)) * float(d.std(ddof=1)) / np.sqrt(n)
    mean = float(d[:-2].mean()) if n > 2 else 0.0
    return max(-1.0, mean - half), min(1.0, mean + half)


def threshold_of(clean: np.ndarray, false_refusals: float, confidence: float = 0.95) -> float:
    """The score above which, with this confidence, no more than the wanted share of future clean inputs lies.

    A one-sided tolerance limit that knows nothing of the distribution (Wilks 1941): with k of n clean scores above it,
    k the largest for which a binomial(n, false_refusals) is at most k with probability 1 − confidence. Fewer than
    log(1 − confidence) / log(1 − false_refusals) scores cannot give it; it is then the largest of them.
    """
    above = int(stats.binom.ppf(1 - confidence, len(clean), false_refusals))
    if stats.binom.cdf(above, len(clean), false_refusals) > 1 - confidence:
        above -= 1
    return float(np.sort(clean)[::-1][max(above, 0)])
