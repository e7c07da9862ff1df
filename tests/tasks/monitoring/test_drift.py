"""Drift: nothing is found where nothing changed, and what changed is found by its name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.monitoring.drift import MIN_IMAGES, compare, holm, normed_wasserstein, stability_index


def sample(n: int, seed: int, **shift: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    numbers = {name: rng.normal(shift.get(name, 0.0), 1.0, n) for name in ("mean", "sd", "edges", "score")}
    share = 0.3 + shift.get("label", 0.0)
    return {**numbers, "label": np.where(rng.random(n) < share, "covid", "normal")}


def test_the_same_data_does_not_drift():
    reference = sample(400, 0)
    result = compare(reference, reference, allowed_share=0.1)
    assert result.decided
    assert not result.drifted
    assert result.share == 0
    assert {s.p_adjusted for s in result.statistics} == {1.0}


def test_false_alarms_over_fresh_samples_are_rare():
    """At α = .01 after Holm over 200 comparisons of equal sources: 2 expected; 8 would be one in a thousand."""
    alarms = sum(
        any(s.drifted for s in compare(sample(400, i), sample(100, 10_000 + i), allowed_share=0).statistics)
        for i in range(200)
    )
    assert alarms < 8


@pytest.mark.parametrize("moved", ["mean", "score", "label"])
def test_what_moved_is_named(moved):
    result = compare(sample(400, 0), sample(200, 2, **{moved: 0.6}), allowed_share=0.1)
    assert [s.name for s in result.statistics if s.drifted] == [moved]
    assert result.share == pytest.approx(0.2)
    assert result.drifted
    assert not compare(sample(400, 0), sample(200, 2, **{moved: 0.6}), allowed_share=0.2).drifted


def test_a_significant_but_tiny_change_is_no_drift():
    result = compare(sample(30_000, 0), sample(30_000, 1, mean=0.06), allowed_share=0)
    [mean] = [s for s in result.statistics if s.name == "mean"]
    assert mean.p_adjusted < 0.01
    assert mean.effect < mean.effect_threshold
    assert not mean.drifted


def test_too_few_images_are_not_judged():
    result = compare(sample(400, 0), sample(MIN_IMAGES - 1, 1, mean=9), allowed_share=0.1)
    assert (result.decided, result.drifted, result.statistics) == (False, False, ())
    empty = {k: v[:0] for k, v in sample(1, 1).items()}
    assert compare(sample(400, 0), empty, allowed_share=0.1).n_current == 0


def test_statistics_that_differ_are_an_error():
    with pytest.raises(ValueError, match="differ"):
        compare(sample(40, 0), {"mean": np.zeros(40)}, allowed_share=0.1)
    with pytest.raises(ValueError, match="at least two"):
        compare({"mean": np.zeros(1)}, {"mean": np.zeros(40)}, allowed_share=0.1)


def test_constant_statistics_are_compared():
    same = compare({"a": np.zeros(50)}, {"a": np.zeros(50)}, allowed_share=0)
    other = compare({"a": np.zeros(50)}, {"a": np.ones(50)}, allowed_share=0)
    assert (same.drifted, other.drifted) == (False, True)
    one_label = compare({"l": np.array(["x"] * 50)}, {"l": np.array(["x"] * 50)}, allowed_share=0)
    assert not one_label.drifted
    new_label = compare({"l": np.array(["x"] * 50)}, {"l": np.array(["y"] * 50)}, allowed_share=0)
    assert new_label.drifted


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_its_definition(p):
    order = sorted(range(len(p)), key=lambda i: (p[i], i))
    wanted, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        wanted[i] = worst
    assert holm(p) == pytest.approx(wanted)
    assert all(a >= b for a, b in zip(holm(p), p, strict=True))


def test_effects_follow_their_formulas():
    x = np.random.default_rng(0).normal(0, 2, 5000)
    assert normed_wasserstein(x, x + 1) == pytest.approx(1 / x.std())
    p, q = np.array([700, 300]), np.array([500, 500])
    wanted = (0.5 - 0.7) * np.log(0.5 / 0.7) + (0.5 - 0.3) * np.log(0.5 / 0.3)
    assert stability_index(p * 1000, q * 1000) == pytest.approx(wanted, rel=1e-4)


def test_the_tests_are_scipy_s():
    reference, current = sample(300, 0), sample(200, 2, mean=0.3, label=0.2)
    result = {s.name: s for s in compare(reference, current, allowed_share=0).statistics}
    raw = [stats.ks_2samp(reference[k], current[k]).pvalue for k in ("mean", "sd", "edges", "score")]
    counts = [[(d["label"] == v).sum() for v in ("covid", "normal")] for d in (reference, current)]
    raw.append(stats.chi2_contingency(counts).pvalue)
    assert [s.p_adjusted for s in result.values()] == pytest.approx(holm(raw))
    assert sum(result["mean"].reference_share) == pytest.approx(1, abs=0.01)
