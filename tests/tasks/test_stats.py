"""Intervals against independent references and their own definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.stats import bootstrap, clopper_pearson, over_seeds, paired_difference, pooled, proportion


@given(n=st.integers(1, 400), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_clopper_pearson_is_scipys_exact_interval(n: int, share: float, confidence: float) -> None:
    k = round(share * n)
    reference = stats.binomtest(k, n).proportion_ci(confidence_level=confidence, method="exact")
    assert clopper_pearson(k, n, confidence) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_clopper_pearson_of_nothing_says_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="must lie in"):
        clopper_pearson(3, 2)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_over_seeds_is_numpys_and_leaves_out_what_is_missing(values: list[float]) -> None:
    got = over_seeds([*values, None])
    assert got["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert got["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert over_seeds([]) == over_seeds([None]) == {"mean": None, "sd": None}


@given(st.lists(st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), max_size=6))
def test_pooled_counts_every_image_of_every_seed(counts: list[tuple[int, int]]) -> None:
    got = pooled([proportion(k, n) for k, n in counts])
    whole = proportion(sum(k for k, _ in counts), sum(n for _, n in counts))
    assert (got["low"], got["high"], got["n"]) == (whole["low"], whole["high"], whole["n"])
    shares = [k / n for k, n in counts if n]
    assert got["mean"] == (pytest.approx(np.mean(shares), abs=2e-6) if shares else None)


def test_bootstrap_is_seeded_and_covers_the_mean() -> None:
    values = np.random.default_rng(0).normal(3, 1, 300)
    low, high = bootstrap(np.mean, values, seed=1)
    assert (low, high) == bootstrap(np.mean, values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(300), rel=0.25)


def test_bootstrap_resamples_arrays_together() -> None:
    a = np.arange(50.0)
    assert bootstrap(lambda x, y: float(np.abs(x - y).max()), a, a, seed=0) == (0.0, 0.0)


def test_bootstrap_leaves_out_what_is_undefined() -> None:
    assert np.isnan(bootstrap(lambda _: float("nan"), np.ones(5), seed=0)).all()
    sometimes = bootstrap(lambda x: float("nan") if x.min() == 0 else 1.0, np.arange(20.0), seed=0)
    assert sometimes == (1.0, 1.0)


@given(rows=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_paired_difference_brackets_the_mean_and_turns_its_sign(rows: list[tuple[bool, bool]]) -> None:
    a, b = (np.array([r[i] for r in rows], float) for i in (0, 1))
    low, high = paired_difference(a, b)
    mean = float((a - b).mean()) if len(a) else 0.0
    assert -1 <= low < high <= 1
    assert low - 1e-12 <= mean <= high + 1e-12
    assert paired_difference(b, a) == pytest.approx((-high, -low))


def test_paired_difference_sees_a_difference_that_is_there() -> None:
    a, b = np.ones(200), np.zeros(200)
    b[:150] = 1
    assert paired_difference(a, b)[0] > 0
    assert paired_difference(a, a)[0] < 0 < paired_difference(a, a)[1]
