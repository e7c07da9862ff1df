"""APGD and Square against ART's, losses against their formulas, and the attacks' own promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Case
from torch import Tensor, nn

from tasks.evasion.attacks.apgd import apgd_ce, apgd_targeted
from tasks.evasion.attacks.losses import cross_entropy, margin, targeted_dlr
from tasks.evasion.attacks.square import HALVED_AT, share_at, square
from tasks.models.architectures import Classifier
from tasks.models.inference import logits
from tasks.stats import clopper_pearson

EPS = 0.05


def fooled(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    return logits(model, x).argmax(1) != y


def arts(model: Classifier) -> object:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model.eval(), loss=nn.CrossEntropyLoss(), input_shape=(1, 16, 16), nb_classes=3, clip_values=(0.0, 1.0),
        device_type="cpu",
    )  # fmt: skip


def agree(ours: Tensor, theirs: Tensor) -> bool:
    """Does either rate lie within the other's 95 % interval?"""
    n, a, b = len(ours), int(ours.sum()), int(theirs.sum())
    inside = [lo <= k / n <= hi for k, (lo, hi) in ((a, clopper_pearson(b, n)), (b, clopper_pearson(a, n)))]
    return any(inside)


@pytest.mark.parametrize("eps", [0.02, 0.05])
def test_apgd_agrees_with_arts(case: Case, eps: float) -> None:
    from art.attacks.evasion import AutoProjectedGradientDescent

    x, y = case.sample.x, case.sample.y
    attack = AutoProjectedGradientDescent(
        arts(case.other), eps=eps, eps_step=2 * eps, max_iter=20, nb_random_init=1, batch_size=64,
        loss_type="cross_entropy", verbose=False,
    )  # fmt: skip
    theirs = torch.from_numpy(attack.generate(x.numpy(), np.eye(3, dtype=np.float32)[y.numpy()]))
    ours = apgd_ce(case.other, x, y, eps=eps, steps=20, seed=0)
    assert agree(fooled(case.other, ours, y), fooled(case.other, theirs, y))


@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_square_agrees_with_arts(case: Case, eps: float) -> None:
    from art.attacks.evasion import SquareAttack

    x, y = case.sample.x, case.sample.y
    np.random.seed(0)
    attack = SquareAttack(arts(case.other), eps=eps, max_iter=100, p_init=0.8, batch_size=64, verbose=False)
    theirs = torch.from_numpy(attack.generate(x.numpy(), np.eye(3, dtype=np.float32)[y.numpy()]))
    ours = square(case.other, x, y, eps=eps, queries=100, seed=0)
    assert agree(fooled(case.other, ours.images, y), fooled(case.other, theirs, y))


@pytest.mark.parametrize("attack", [apgd_ce, apgd_targeted])
def test_apgd_keeps_to_its_budget_repeats_and_more_steps_do_no_harm(case: Case, attack) -> None:
    x, y = case.sample.x, case.sample.y
    few, many = (attack(case.other, x, y, eps=EPS, steps=n, seed=3) for n in (3, 30))
    for changed in (few, many):
        assert float((changed - x).abs().max()) <= EPS + 1e-6
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert torch.equal(many, attack(case.other, x, y, eps=EPS, steps=30, seed=3))
    assert fooled(case.other, many, y).sum() >= fooled(case.other, few, y).sum()
    assert attack(case.other, x[:0], y[:0], eps=EPS, steps=2, seed=0).shape == x[:0].shape


def test_apgd_that_goes_on_reaches_a_larger_loss(case: Case) -> None:
    x, y = case.sample.x, case.sample.y
    first, on = (
        cross_entropy(logits(case.other, apgd_ce(case.other, x, y, eps=0.1, steps=20, seed=0, until_fooled=u)), y)
        for u in (True, False)
    )
    assert float(on.mean()) > float(first.mean()) + 0.5


def test_the_targeted_attack_does_as_well_as_the_untargeted(case: Case) -> None:
    x, y = case.sample.x, case.sample.y
    auto = fooled(case.other, apgd_ce(case.other, x, y, eps=0.03, steps=20, seed=0), y).float().mean()
    targeted = fooled(case.other, apgd_targeted(case.other, x, y, eps=0.03, steps=20, seed=0), y).float().mean()
    assert targeted >= auto - 0.03


def test_square_asks_no_more_than_it_may_and_stops_where_it_has_won(case: Case) -> None:
    x, y = case.sample.x, case.sample.y
    found = square(case.other, x, y, eps=0.1, queries=60, seed=0)
    assert torch.equal(found.fooled, fooled(case.other, found.images, y))
    assert int(found.queries.max()) <= 60
    assert int(found.queries.min()) >= 1
    assert bool((found.queries[~found.fooled] == 60).all())
    assert float((found.images - x).abs().max()) <= 0.1 + 1e-6
    more = square(case.other, x, y, eps=0.1, queries=200, seed=0)
    assert more.fooled.sum() >= found.fooled.sum()


def test_square_shrinks_by_the_papers_schedule() -> None:
    assert share_at(0.8, 0.0) == 0.8
    for k, at in enumerate(HALVED_AT, start=1):
        assert share_at(0.8, at) == 0.8 / 2 ** (k - 1)
        assert share_at(0.8, at + 1e-6) == 0.8 / 2**k


def test_losses_are_their_formulas() -> None:
    z = torch.tensor([[3.0, 1.0, 0.5, -2.0], [0.0, 2.0, 1.0, 4.0]])
    y, t = torch.tensor([0, 1]), torch.tensor([2, 3])
    torch.testing.assert_close(margin(z, y), torch.tensor([-2.0, 2.0]))
    expected = torch.tensor([(0.5 - 3) / (3 - (0.5 - 2) / 2), (4 - 2) / (4 - (1 + 0) / 2)])
    torch.testing.assert_close(targeted_dlr(z, y, t), expected)
    torch.testing.assert_close(targeted_dlr(5 * z, y, t), expected)
    torch.testing.assert_close(targeted_dlr(z[:, :3], y, torch.tensor([2, 0])), torch.tensor([-2.5 / 2.5, -2.0 / 2.0]))
    torch.testing.assert_close(targeted_dlr(z[:, :2], y, torch.tensor([1, 0])), torch.tensor([-2.0, -2.0]))
