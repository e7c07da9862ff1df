"""Membership attacks by ratios and by labels: against formulas written out record by record, and on planted memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from tasks.errors import GatehouseError
from tasks.privacy.heads import Heads, random_halves, train_heads
from tasks.privacy.label_only import label_only_scores
from tasks.privacy.membership import likelihood_ratio_scores, logit_confidence, unseen_confidence
from tasks.privacy.ratios import GAMMA, PRIOR_SLOPE, marginal, online_ratio_scores, rmia_scores
from tasks.privacy.scoring import auc, tpr_at_fpr


def test_the_online_ratio_is_the_papers_formula() -> None:
    rng = np.random.default_rng(0)
    included = random_halves(9, 40, seed=1)
    confidence = rng.normal(size=(9, 40)) + 2 * included
    candidate = rng.normal(size=40)
    ours = online_ratio_scores(candidate, confidence, included)
    inside = [confidence[included[:, i], i] for i in range(40)]
    outside = [confidence[~included[:, i], i] for i in range(40)]

    def pooled(groups: list[np.ndarray]) -> float:
        return float(np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / sum(len(g) - 1 for g in groups)))

    sd_in, sd_out = pooled(inside), pooled(outside)
    for i in range(40):
        wanted = norm.logpdf(candidate[i], inside[i].mean(), sd_in) - norm.logpdf(
            candidate[i], outside[i].mean(), sd_out
        )
        assert ours[i] == pytest.approx(wanted, abs=1e-9)


def test_rmia_counts_the_records_that_each_beats() -> None:
    rng = np.random.default_rng(2)
    own, mean, population, population_mean = (rng.uniform(0.05, 1, size) for size in (30, 30, 17, 17))
    ours = rmia_scores(own, mean, population, population_mean)
    for i in range(30):
        ratios = (own[i] / mean[i]) / (population / population_mean)
        assert ours[i] == pytest.approx((ratios >= GAMMA).mean())
    with pytest.raises(GatehouseError, match="was given none"):
        rmia_scores(own, mean, population[:0], population_mean[:0])


def test_the_marginal_is_the_line_over_references_without_the_record() -> None:
    included = random_halves(4, 12, seed=0)
    probability = np.random.default_rng(3).uniform(size=(4, 12))
    ours = marginal(probability, included)
    for i in range(12):
        without = probability[~included[:, i], i].mean()
        assert ours[i] == pytest.approx(((1 + PRIOR_SLOPE) * without + 1 - PRIOR_SLOPE) / 2)


PLANTED, ORDINARY, UNSEEN = slice(0, 200), slice(200, 800), slice(800, 1200)


@pytest.fixture(scope="module")
def memory() -> tuple[Heads, Heads, np.ndarray, np.ndarray, np.ndarray, torch.Tensor, np.ndarray]:
    """A network that learnt half of 200 wrongly labelled records by heart, one that saw none, and references."""
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 1200)
    x = torch.from_numpy((rng.normal(size=(3, 120))[truth] + rng.normal(size=(1200, 120))).astype(np.float32))
    labels = truth.copy()
    labels[PLANTED] = (truth[PLANTED] + rng.integers(1, 3, 200)) % 3
    halves = np.zeros((18, 1200), bool)
    halves[:, ORDINARY] = True
    halves[:17, PLANTED] = random_halves(17, 200, seed=5)
    options = {"classes": 3, "hidden": 64, "steps": 200, "learning_rate": 0.02, "weight_decay": 0.0}
    y = torch.from_numpy(labels)
    learnt, unaware = (train_heads(x, y, halves[i : i + 1], seed=1, **options) for i in (16, 17))
    references = train_heads(x, y, halves[:16], seed=3, **options)
    return learnt, unaware, halves[16, PLANTED], halves[:16], labels, x, references(x).numpy()


def test_planted_memory_is_found_and_none_is_found_elsewhere(memory) -> None:
    learnt, unaware, members, included, labels, x, outputs = memory
    confidence = logit_confidence(outputs, labels)
    probability = 1 / (1 + np.exp(-confidence))

    def scores(model: Heads) -> dict[str, np.ndarray]:
        own = logit_confidence(model(x).numpy()[0], labels)
        p, mean = 1 / (1 + np.exp(-own)), probability.mean(0)  # online: half of the references learnt each planted one
        offline, deviation = unseen_confidence(confidence[:, PLANTED], included[:, PLANTED])
        return {
            "online": online_ratio_scores(own[PLANTED], confidence[:, PLANTED], included[:, PLANTED]),
            "offline": likelihood_ratio_scores(own[PLANTED], offline, deviation),
            "rmia": rmia_scores(p[PLANTED], mean[PLANTED], p[UNSEEN], mean[UNSEEN]),
            "labels": label_only_scores(
                lambda r: model(torch.from_numpy(r.astype(np.float32))).numpy()[0].argmax(1), x[PLANTED].numpy(),
                labels[PLANTED], seed=0,
            ),
        }  # fmt: skip

    for name, found in scores(learnt).items():
        assert auc(found, members) > 0.95, name
        if name != "labels":  # they rank well, and say little of the surest
            assert tpr_at_fpr(found, members, 0.01).tpr.value >= 0.9, name
    chance = 3 * (1 / 12 * 201 / (100 * 100)) ** 0.5  # three deviations of the AUC of guessing
    for name, found in scores(unaware).items():
        assert abs(auc(found, members) - 0.5) < chance, name


def test_labels_alone_rank_every_wrong_answer_below_every_right_one() -> None:
    records = np.random.default_rng(0).normal(size=(50, 4))
    labels = np.arange(50) % 2
    scores = label_only_scores(lambda r: (r[:, 0] > 0).astype(int), records, labels, seed=1)
    right = (records[:, 0] > 0) == labels
    assert scores[right].min() >= scores[~right].max()
    far = np.abs(records[:, 0]) > 1.5
    assert scores[right & far].mean() > scores[right & ~far].mean()
