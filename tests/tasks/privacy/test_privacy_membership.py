"""Membership scores: against formulas, on planted memory, and on models that never saw the records."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.privacy.heads import random_halves, train_heads
from tasks.privacy.membership import (
    balanced_sample,
    features_only_scores,
    likelihood_ratio_scores,
    line,
    logit_confidence,
    loss_scores,
    unseen_confidence,
)
from tasks.privacy.scoring import auc_figure, tpr_at_fpr

torch.set_num_threads(1)
MEMORISING = {"hidden": 64, "steps": 150, "learning_rate": 0.02, "weight_decay": 0.0}


def test_scaled_confidence_is_the_log_odds_of_the_true_class():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, 50, 4)), rng.integers(0, 4, 50)
    p = np.take_along_axis(softmax(z, -1), y.reshape(1, -1, 1).repeat(2, 0), 2)[..., 0]
    np.testing.assert_allclose(logit_confidence(z, y), np.log(p / (1 - p)), rtol=1e-9)


def test_scores_keep_their_order_where_probabilities_round_to_one():
    z = np.array([[40.0, 0, 0], [80.0, 0, 0], [-80.0, 0, 0]])
    scores = loss_scores(z, np.zeros(3, int))
    assert scores[2] < scores[0] < scores[1] < 0 or scores[0] == pytest.approx(-2 * np.exp(-40.0))
    np.testing.assert_allclose(logit_confidence(z, np.zeros(3, int)), [40, 80, -80] - np.log(2))


def test_loss_scores_are_minus_the_cross_entropy():
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
    loss = F.cross_entropy(torch.from_numpy(z), torch.from_numpy(y), reduction="none").numpy()
    np.testing.assert_allclose(loss_scores(z, y), -loss, rtol=1e-9)


def test_only_references_that_did_not_learn_from_a_record_speak_about_it():
    rng = np.random.default_rng(2)
    confidence, included = rng.normal(size=(6, 40)), random_halves(6, 40, seed=0)
    confidence[included] = 1e6  # what the others say must not matter
    mean, deviation = unseen_confidence(confidence, included)
    out = [confidence[~included[:, i], i] for i in range(40)]
    np.testing.assert_allclose(mean, [o.mean() for o in out])
    pooled = np.sqrt(sum(((o - o.mean()) ** 2).sum() for o in out) / sum(len(o) - 1 for o in out))
    assert deviation == pytest.approx(pooled)
    with pytest.raises(GatehouseError, match=r"raise privacy\.references"):
        unseen_confidence(confidence[:1], np.ones((1, 40), bool))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(1, 50), st.integers(0, 99))
def test_each_record_is_in_half_of_the_references(count, records, seed):
    halves = random_halves(count, records, seed=seed)
    assert set(halves.sum(0)) == {(count + 1) // 2}


def test_likelihood_ratio_orders_as_the_probability_of_the_paper():
    rng = np.random.default_rng(3)
    confidence, mean = rng.normal(size=100), rng.normal(size=100)
    ours = likelihood_ratio_scores(confidence, mean, 0.7)
    np.testing.assert_allclose(norm.cdf(ours), norm.cdf(confidence, mean, 0.7))


def test_known_unseen_records_translate_between_recipes():
    rng = np.random.default_rng(4)
    mean = rng.normal(size=300)
    confidence = 5 * mean + 2 + rng.normal(size=300)
    scores = likelihood_ratio_scores(confidence[:200], mean[:200], 1.0, known_unseen=(confidence[200:], mean[200:]))
    assert abs(np.corrcoef(scores, mean[:200])[0, 1]) < 0.2  # without it the correlation is .97
    assert line(np.ones(5), np.arange(5.0)) == (0.0, 2.0)


def random_records(n, width=24, classes=3, seed=0):
    """Features whose labels follow no rule: they can only be learnt by heart."""
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(n, width)), dtype=torch.float32)
    return x, rng.integers(0, classes, n)


def attack(x, y, learnt, references=16, seed=0, recipe=MEMORISING):
    """Likelihood-ratio scores of heads that learnt from the rows `learnt`, with references of the same recipe."""
    labels = torch.from_numpy(y)
    heads = train_heads(x, labels, learnt, classes=3, seed=seed, **recipe)
    included = random_halves(references, len(y), seed=seed + 1)
    known = train_heads(x, labels, included, classes=3, seed=seed + 2, **recipe)
    mean, deviation = unseen_confidence(logit_confidence(known(x).numpy(), y), included)
    return likelihood_ratio_scores(logit_confidence(heads(x).numpy(), y), mean, deviation)


def test_planted_memorised_records_are_found_at_few_false_positives():
    """Wrong labels and a mark of its own for each: who saw the record remembers it, others are sure of the truth."""
    rng = np.random.default_rng(0)
    n, marked, truth = 480, 120, np.arange(480) % 3
    planted = np.arange(n) < marked
    body = 2 * np.eye(3)[truth] + 0.3 * rng.normal(size=(n, 3))
    x = torch.tensor(np.hstack([body, np.eye(n, marked)]), dtype=torch.float32)
    y = np.where(planted, (truth + 1 + rng.integers(0, 2, n)) % 3, truth)
    halves = random_halves(4, n, seed=5)
    for scores, learnt in zip(attack(x, y, halves, recipe={}), halves, strict=True):
        assert tpr_at_fpr(scores[planted], learnt[planted], 0.01).tpr.value >= 0.9


def test_models_that_saw_none_of_the_records_give_an_auc_of_one_half():
    x, y = random_records(700, seed=6)
    learnt = np.zeros((5, 700), bool)
    learnt[:, 400:] = random_halves(5, 300, seed=7)
    members = random_halves(5, 400, seed=8)  # called so, seen by nobody
    scores = attack(x, y, learnt)[:, :400]
    figures = [auc_figure(s, m, seed=0) for s, m in zip(scores, members, strict=True)]
    assert sum(f.low <= 0.5 <= f.high for f in figures) >= 4


def test_heads_trained_together_are_the_heads_trained_alone():
    x, y = random_records(90, seed=9)
    labels, learnt = torch.from_numpy(y), random_halves(3, 90, seed=1)
    # Linear heads have one optimum, wherever they start.
    how = {"classes": 3, "weight_decay": 0.05, "steps": 300}
    together = train_heads(x, labels, learnt, seed=0, **how)(x).softmax(-1)
    for i in range(3):
        alone = train_heads(x, labels, learnt[i : i + 1], seed=1, **how)(x).softmax(-1)
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=0.01)
    with pytest.raises(GatehouseError, match="learn from no record"):
        train_heads(x, torch.from_numpy(y), np.zeros((1, 90), bool), classes=3)


def test_reference_heads_learn_what_logistic_regression_learns():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    y = np.arange(400) % 3
    x = np.random.default_rng(1).normal(size=(3, 6))[y] * 1.5 + rng.normal(size=(400, 6))
    tensor = torch.tensor(x, dtype=torch.float32)
    heads = train_heads(tensor, torch.from_numpy(y), np.ones((1, 400), bool), classes=3)
    agree = heads(tensor)[0].argmax(1).numpy() == LogisticRegression(C=10).fit(x, y).predict(x)
    assert agree.mean() > 0.97


def test_the_baseline_sees_a_shift_and_nothing_else():
    rng = np.random.default_rng(0)
    member = np.arange(400) < 200
    y = rng.integers(0, 3, 400)
    same = rng.normal(size=(400, 5))
    shifted = same + np.where(member, 1.0, 0.0)[:, None]
    assert auc_figure(features_only_scores(shifted, y, member, seed=0), member, seed=0).low > 0.8
    alike = auc_figure(features_only_scores(same, y, member, seed=0), member, seed=0)
    assert alike.low <= 0.55
    assert alike.high < 0.65


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(15, 80), min_size=2, max_size=4),
    st.lists(st.integers(15, 80), min_size=2, max_size=4),
    st.integers(20, 200),
)
def test_samples_hold_each_class_equally_often_on_both_sides(members, others, limit):
    a, b = (np.repeat(np.arange(len(c)), c) for c in (members, others))
    m, u = balanced_sample(a, b, limit=limit, seed=0)
    assert np.array_equal(np.bincount(a[m], minlength=4), np.bincount(b[u], minlength=4))
    assert len(m) == len(np.unique(m)) <= limit
    room = sum(min(x, y) for x, y in zip(members, others, strict=False))
    assert len(m) == min(limit, room)


def test_one_class_or_too_few_records_is_one_clear_error():
    with pytest.raises(GatehouseError, match="at least two classes with training and test images"):
        balanced_sample(np.zeros(50, int), np.arange(50) % 2 * 0, limit=30, seed=0)
    with pytest.raises(GatehouseError, match="found 8 records a side and needs 20"):
        balanced_sample(np.arange(8) % 2, np.arange(40) % 2, limit=30, seed=0)
