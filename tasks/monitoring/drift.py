"""Has the input moved away from what the model was trained on? One test a statistic, corrected for their number.

Numbers are compared by Kolmogorov and Smirnov's test, labels by a chi-squared test; p-values are adjusted by Holm's
step-down method. With many requests every difference becomes significant, so a statistic counts as drifted only where
its effect is large enough too: the Wasserstein distance in units of the reference's standard deviation for numbers
(0.1 is Evidently's default as well), the population stability index for labels (0.1: a moderate shift by convention).
This first version is SciPy alone; Evidently is not needed for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from scipy import stats

from tasks.gate import Frozen

ALPHA = 0.01
MIN_WASSERSTEIN = 0.1
MIN_PSI = 0.1
MIN_IMAGES = 30
BINS = 16


class StatisticDrift(Frozen):
    """One statistic in reference and requests. `effect` is in reference standard deviations, or a PSI for labels."""

    name: str
    test: Literal["Kolmogorov-Smirnov", "chi-squared"]
    statistic: float
    p_adjusted: float
    effect: float
    effect_threshold: float
    drifted: bool
    reference_mean: float | None  # None for labels
    current_mean: float | None
    bins: tuple[str, ...]  # lower edges, or labels
    reference_share: tuple[float, ...]  # of each bin
    current_share: tuple[float, ...]


class Drift(Frozen):
    """`decided` is False where there are too few images to say; nothing is then called drift, or its absence."""

    n_reference: int
    n_current: int
    decided: bool
    drifted: bool
    share: float  # of statistics that drifted
    allowed_share: float
    alpha: float
    statistics: tuple[StatisticDrift, ...]


def compare(reference: Mapping[str, np.ndarray], current: Mapping[str, np.ndarray], *, allowed_share: float) -> Drift:
    """Drift of `current` against `reference`; both map a statistic's name to its values, numbers or label strings.

    Drift is declared where more than `allowed_share` of the statistics drifted.

    Raises:
        ValueError: the two do not hold the same statistics, or the reference is empty.
    """
    if reference.keys() != current.keys() or not reference:
        raise ValueError(f"statistics differ: {sorted(reference)} and {sorted(current)}")
    n_reference = min(len(v) for v in reference.values())
    n_current = min(len(v) for v in current.values())
    if n_reference < 2:
        raise ValueError("the reference needs at least two images")
    decided = n_current >= MIN_IMAGES
    found: list[StatisticDrift] = []
    if decided:
        raw = [_compare_one(name, np.asarray(reference[name]), np.asarray(current[name])) for name in reference]
        found = [
            s.model_copy(update={"p_adjusted": p, "drifted": bool(p < ALPHA and s.effect >= s.effect_threshold)})
            for s, p in zip(raw, holm([s.p_adjusted for s in raw]), strict=True)
        ]
    share = sum(s.drifted for s in found) / len(found) if found else 0.0
    return Drift(
        n_reference=n_reference,
        n_current=n_current,
        decided=decided,
        drifted=decided and share > allowed_share,
        share=share,
        allowed_share=allowed_share,
        alpha=ALPHA,
        statistics=tuple(found),
    )


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): family-wise error under any dependence; order is kept."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(v) for v in adjusted]


def _compare_one(name: str, reference: np.ndarray, current: np.ndarray) -> StatisticDrift:
    """The test with its raw p-value in `p_adjusted`; the caller adjusts it."""
    if reference.dtype.kind in "OUS":
        return _labels(name, reference.astype(str), current.astype(str))
    reference, current = reference.astype(float), current.astype(float)
    test = stats.ks_2samp(reference, current)
    edges = np.histogram_bin_edges(np.concatenate([reference, current]), BINS)
    return StatisticDrift(
        name=name,
        test="Kolmogorov-Smirnov",
        statistic=float(test.statistic),
        p_adjusted=float(test.pvalue),
        effect=normed_wasserstein(reference, current),
        effect_threshold=MIN_WASSERSTEIN,
        drifted=False,
        reference_mean=float(reference.mean()),
        current_mean=float(current.mean()),
        bins=tuple(f"{e:.4g}" for e in edges[:-1]),
        reference_share=_shares(np.histogram(reference, edges)[0]),
        current_share=_shares(np.histogram(current, edges)[0]),
    )


def normed_wasserstein(reference: np.ndarray, current: np.ndarray) -> float:
    """First Wasserstein distance over the reference's standard deviation, which is taken as at least 0.001."""
    return float(stats.wasserstein_distance(reference, current) / max(float(reference.std()), 1e-3))


def _labels(name: str, reference: np.ndarray, current: np.ndarray) -> StatisticDrift:
    names = np.union1d(reference, current)
    counts = np.stack([(reference[:, None] == names).sum(0), (current[:, None] == names).sum(0)])
    test = stats.chi2_contingency(counts) if len(names) > 1 else None
    return StatisticDrift(
        name=name,
        test="chi-squared",
        statistic=float(test.statistic) if test else 0.0,
        p_adjusted=float(test.pvalue) if test else 1.0,
        effect=stability_index(counts[0], counts[1]),
        effect_threshold=MIN_PSI,
        drifted=False,
        reference_mean=None,
        current_mean=None,
        bins=tuple(str(n) for n in names),
        reference_share=_shares(counts[0]),
        current_share=_shares(counts[1]),
    )


def stability_index(reference: np.ndarray, current: np.ndarray) -> float:
    """Population stability index of two count vectors, half an observation added to each (0 is no infinity)."""
    p = (reference + 0.5) / (reference + 0.5).sum()
    q = (current + 0.5) / (current + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


def _shares(counts: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(c), 4) for c in counts / max(int(counts.sum()), 1))
