"""Figures of an attack: against scikit-learn, brute force, and known truths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from tasks.privacy.scoring import (
    Figure,
    attack_checks,
    auc,
    measure,
    membership_advantage,
    roc,
    tpr_at_fpr,
)

SIDES = np.arange(600) < 300


def sample(shift, n=600, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n) + shift * (np.arange(n) < n // 2)
    return (scores if decimals is None else scores.round(decimals)), np.arange(n) < n // 2


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 2), st.integers(0, 3), st.integers(0, 1000))
def test_auc_is_that_of_scikit_learn_with_ties_too(shift, decimals, seed):
    scores, member = sample(shift, 200, seed, decimals)
    assert auc(scores, member) == pytest.approx(roc_auc_score(member, scores))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(0, 1000), st.sampled_from([0.001, 0.01, 0.1]))
def test_tpr_at_fpr_never_accuses_more_than_it_says(decimals, seed, fpr):
    scores, member = sample(1.0, 400, seed, decimals)
    at = tpr_at_fpr(scores, member, fpr)
    assert at.false_positives <= fpr * 200
    assert at.fpr_high >= at.false_positives / 200
    best = max(
        (scores[member] > t).mean() for t in np.append(scores, np.inf) if (scores[~member] > t).sum() <= fpr * 200
    )
    assert at.tpr.value == pytest.approx(best, abs=1e-6)
    assert at.tpr.low <= at.tpr.value <= at.tpr.high


def test_the_curve_lies_on_that_of_scikit_learn():
    scores, member = sample(1.0, 600, 1, 1)
    false, true, _ = roc_curve(member, scores, drop_intermediate=False)
    points = {(round(float(f), 6), round(float(t), 6)) for f, t in zip(false, true, strict=True)}
    curve = roc(scores, member)
    assert set(curve) <= points
    assert curve[-1] == (1.0, 1.0)
    assert len(curve) <= 40


def test_advantage_of_no_leak_is_not_the_maximum_of_noise():
    ours, naive = [], []
    for seed in range(40):
        scores, member = sample(0.0, seed=seed)
        ours.append(membership_advantage(scores, member, seed=seed))
        false, true, _ = roc_curve(member, scores)
        naive.append(np.abs(true - false).max())
    assert np.mean(naive) > 0.05
    assert np.mean([f.value for f in ours]) < 0.025
    assert sum(f.low == 0 for f in ours) >= 36  # 95 % intervals over no leak
    assert min(f.high for f in ours) > 0.05  # 300 records a side prove no less, however the draw fell
    assert max(f.high for f in ours) < 0.25  # so that a model without a leak can pass


@pytest.mark.parametrize("shift", [0.5, 1.5])
def test_interval_of_the_advantage_holds_the_true_value(shift):
    truth = 2 * norm.cdf(shift / 2) - 1
    found = [membership_advantage(*sample(shift, seed=s), seed=s) for s in range(40)]
    assert sum(f.low <= truth <= f.high for f in found) >= 34
    assert np.mean([f.value for f in found]) == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_perfect_attack_has_advantage_one_whichever_way_it_points(direction):
    scores = direction * np.where(SIDES, 1.0, 0.0)
    figure = membership_advantage(scores, SIDES, seed=0)
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert figure.low > 0.97


def test_constant_scores_tell_nothing():
    figures = measure("constant", np.zeros(600), SIDES, seed=0)
    assert figures.auc.value == 0.5
    assert figures.membership_advantage.value == 0.0
    assert all(at.tpr.value == 0 for at in figures.tpr_at_fpr)
    assert np.isnan(auc(np.zeros(3), np.ones(3, bool)))


def test_the_gate_judges_the_strongest_attack_by_its_upper_end():
    weak, strong = (measure(n, *sample(s), seed=0) for n, s in (("weak", 0.0), ("strong", 2.0)))
    advantage, tpr = attack_checks(
        {"weak": weak.membership_advantage, "strong": strong.membership_advantage},
        {"weak": weak.tpr_at_fpr[0], "strong": strong.tpr_at_fpr[0]},
        n=600,
        advantage_threshold=0.25,
        tpr_threshold=0.1,
    )
    assert "(strong)" in advantage.metric
    assert "(strong)" in tpr.metric
    assert (advantage.status, tpr.status) == ("failed", "failed")
    passed = attack_checks(
        {"weak": weak.membership_advantage},
        {"weak": weak.tpr_at_fpr[0]},
        n=600,
        advantage_threshold=0.25,
        tpr_threshold=0.1,
    )
    assert [c.status for c in passed] == ["passed", "passed"]
    edge = attack_checks(
        {"a": Figure(value=0.2, low=0.1, high=0.3)},
        {"a": weak.tpr_at_fpr[0]},
        n=9,
        advantage_threshold=0.25,
        tpr_threshold=0.1,
    )
    assert edge[0].status == "failed"  # the value would hold, its interval does not
