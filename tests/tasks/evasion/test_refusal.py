"""Refusal: agreement is what its members say, the extra class catches what it learnt, and attacks go past both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SPEC, TRAINING, Case, bright_squares

from tasks.evasion.attacks.apgd import apgd_ce
from tasks.evasion.attacks.losses import margin_past_refusal
from tasks.evasion.refusal import REFUSED, agreed, answered, fooled, joined, with_null
from tasks.models.architectures import Classifier, build, new_head
from tasks.models.inference import logits
from tasks.models.training import fit

EPS = 0.06


def test_an_ensemble_answers_the_mean_and_refuses_where_members_differ(case: Case) -> None:
    members = (case.copied, case.other)
    ensemble, images = joined(members), bright_squares(60, seed=7)[0]
    logs = [logits(m, images).log_softmax(1) for m in members]
    torch.testing.assert_close(logits(ensemble, images), (logs[0] + logs[1]) / 2)
    said = [lo.argmax(1).numpy() for lo in logs]
    expected = np.where(said[0] == said[1], said[0], REFUSED)
    assert agreed(ensemble, images).tolist() == expected.tolist()


def test_an_attack_on_all_members_fools_more_than_one_on_a_single_member(case: Case) -> None:
    ensemble, x, y = joined((case.copied, case.other)), case.sample.x, case.sample.y
    clean = agreed(ensemble, x)
    right = torch.from_numpy(clean == y.numpy())
    x, y = x[right], y[right]
    assert len(y) > 40
    success = {
        name: fooled(
            agreed(ensemble, apgd_ce(m, x, y, eps=EPS, steps=15, seed=0, until_fooled=False)), y.numpy()
        ).mean()
        for name, m in (("one", case.copied), ("all", ensemble))
    }
    assert success["all"] > success["one"] + 0.1


@pytest.fixture(scope="module")
def guarded(case: Case) -> Classifier:
    """A student of three classes and a fourth for changed images."""
    torch.set_num_threads(1)
    train = with_null(case.teacher, *case.train, null=3, steps=5, seed=0)
    assert int((train[1] == 3).sum()) == len(case.train[1]) // 3
    val = with_null(case.teacher, *bright_squares(45, seed=1), null=3, steps=5, seed=1)
    model = build(SPEC.model_copy(update={"classes": ("top", "bottom", "left", "null")}), seed=0)
    fit(model, train, val, TRAINING.model_copy(update={"epochs": 8}), policy="all", seed=0)
    return model


def test_the_extra_class_keeps_most_images_and_refuses_some_changed_ones(case: Case, guarded: Classifier) -> None:
    images, labels = bright_squares(90, seed=5)
    clean = answered(guarded, images, null=3)
    assert float((clean == labels).mean()) > 0.6
    changed, null = with_null(case.teacher, images, labels, null=3, steps=5, seed=5)
    refused = answered(guarded, changed[null == 3], null=3) == REFUSED
    assert refused.mean() > (clean == REFUSED).mean()


def test_an_attack_that_knows_of_refusal_goes_past_it(guarded: Classifier) -> None:
    images, labels = bright_squares(72, seed=2)
    right = answered(guarded, images, null=3) == labels
    x, y = torch.from_numpy(images[right]) / 255, torch.from_numpy(labels[right])
    counts = {}
    for null in (None, 3):
        changed = apgd_ce(guarded, x, y, eps=EPS, steps=20, seed=0, null=null)
        counts[null] = fooled(answered(guarded, changed, null=3), y.numpy()).mean()
    assert counts[3] >= counts[None]
    assert counts[3] > 0.3


def test_the_margin_past_refusal_is_its_formula() -> None:
    z = torch.tensor([[3.0, 1.0, 2.0, 5.0], [0.0, 2.0, 4.0, 1.0]])
    torch.testing.assert_close(margin_past_refusal(z, torch.tensor([0, 1]), 3), torch.tensor([2.0 - 5, 4.0 - 2]))


def test_only_wrong_answers_that_are_given_count() -> None:
    assert fooled(np.array([0, 1, REFUSED, 2]), np.array([0, 0, 0, 2])).tolist() == [False, True, False, False]


def test_new_heads_fit_a_further_class(case: Case) -> None:
    assert new_head(build(SPEC, seed=0), 4, seed=0).head.out_features == 4
