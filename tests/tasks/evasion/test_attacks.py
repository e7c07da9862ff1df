"""Attacks keep to their budget, and do what their papers say, against references written by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.evasion.art_adapter import hop_skip_jump
from tasks.evasion.attacks.apgd import apgd_ce
from tasks.evasion.attacks.budget import within
from tasks.evasion.attacks.mimicry import mimic
from tasks.evasion.attacks.network import Attacked
from tasks.evasion.attacks.noise import random_noise
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.checkpoints import digest
from tasks.models.inference import features, logits

ROUNDING = 1e-6
relaxed = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
budgets = st.floats(1e-4, 1.0)


def pgd_by_hand(model: Classifier, x: Tensor, y: Tensor, *, eps: float, steps: int) -> Tensor:
    """The paper's loop, without random start."""
    changed = x.clone()
    for _ in range(steps):
        changed.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(changed), y), changed)
        changed = (changed.detach() + 2.5 * eps / steps * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return changed


def fooled(model: Classifier, x: Tensor, y: Tensor) -> float:
    return float((logits(model, x).argmax(1) != y).float().mean())


def assert_within(changed: Tensor, x: Tensor, eps: float) -> None:
    assert changed.shape == x.shape
    assert changed.dtype == x.dtype
    assert float((changed - x).abs().max()) <= eps + ROUNDING
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1


@relaxed
@given(eps=budgets, seed=st.integers(0, 99))
def test_every_attack_keeps_to_its_budget_and_to_the_range_of_pixels(case: Case, eps: float, seed: int) -> None:
    rows = np.random.default_rng(seed).choice(len(case.sample.x), 6, replace=False)
    x, y = case.sample.x[rows].clone(), case.sample.y[rows]
    x[0], x[1] = 0.0, 1.0  # at the ends of the range
    before = x.clone()
    for changed in (
        apgd_ce(case.copied, x, y, eps=eps, steps=3, seed=seed),
        mimic(case.teacher, x, x.flip(0), eps=eps, steps=3),
        random_noise(x, eps=eps, seed=seed),
    ):
        assert_within(changed, x, eps)
    assert torch.equal(x, before)


@given(values=st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 1)), min_size=1, max_size=8), eps=budgets)
def test_projection_is_the_nearest_point_of_ball_and_range(values: list[tuple[float, float]], eps: float) -> None:
    changed, x = torch.tensor(values, dtype=torch.float64).T
    out = within(changed, x, eps=eps)
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    torch.testing.assert_close(out, torch.minimum(torch.maximum(changed, low), high))
    torch.testing.assert_close(within(out, x, eps=eps), out)


@pytest.mark.parametrize("eps", [0.03, 0.06, 0.1])
def test_apgd_does_at_least_as_well_as_pgds_plain_loop(case: Case, eps: float) -> None:
    x, y = case.sample.x, case.sample.y
    plain = fooled(case.copied, pgd_by_hand(case.copied, x, y, eps=eps, steps=10), y)
    assert fooled(case.copied, apgd_ce(case.copied, x, y, eps=eps, steps=10, seed=0), y) >= plain - 0.03


def test_gradients_in_bfloat16_fool_as_many(case: Case) -> None:
    x, y, targets = case.sample.x, case.sample.y, case.sample.x[case.sample.targets]
    for half in (False, True):
        changed = apgd_ce(case.copied, x, y, eps=0.06, steps=10, seed=0, bfloat16=half)
        assert_within(changed, x, 0.06)
        white = fooled(case.copied, changed, y)
        gray = fooled(case.copied, mimic(case.teacher, x, targets, eps=0.06, steps=10, bfloat16=half), y)
        if not half:
            whole = (white, gray)
    assert (white, gray) == pytest.approx(whole, abs=0.1)


def test_hop_skip_jump_leaves_the_model_and_numpys_generator_as_they_were(case: Case) -> None:
    model = copy.deepcopy(case.other).train().requires_grad_(True)
    before = digest(model)
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    x, y = case.sample.x, case.sample.y
    found = hop_skip_jump(model, x[:3], y[:3], x[case.sample.targets[:3]], queries=40, seed=0)
    assert found.images.shape == x[:3].shape
    assert np.random.rand() == expected
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert digest(model) == before


def test_seeds_decide_random_starts_and_noise(case: Case) -> None:
    x, y = case.sample.x[:8], case.sample.y[:8]
    for attack in (
        lambda seed: apgd_ce(case.copied, x, y, eps=0.05, steps=2, seed=seed, until_fooled=False),
        lambda seed: random_noise(x, eps=0.05, seed=seed),
    ):
        assert torch.equal(attack(1), attack(1))
        assert not torch.equal(attack(1), attack(2))


def test_noise_moves_every_pixel_by_the_whole_budget() -> None:
    x = torch.full((2, 1, 8, 8), 0.5)
    moved = random_noise(x, eps=0.1, seed=0) - x
    torch.testing.assert_close(moved.abs(), torch.full_like(x, 0.1))
    assert abs(float(moved.mean())) < 0.05


@pytest.mark.parametrize("eps", [0.06, 0.12])
def test_apgd_beats_noise_of_the_same_budget(case: Case, eps: float) -> None:
    x, y = case.sample.x, case.sample.y
    attacked = fooled(case.copied, apgd_ce(case.copied, x, y, eps=eps, steps=10, seed=0), y)
    noisy = fooled(case.copied, random_noise(x, eps=eps, seed=0), y)
    assert attacked > noisy + 0.3


def test_at_half_the_range_apgd_fools_nearly_all(case: Case) -> None:
    x, y = case.sample.x, case.sample.y
    assert fooled(case.other, apgd_ce(case.other, x, y, eps=0.5, steps=10, seed=0), y) > 0.9


def test_mimicry_moves_features_closer_and_the_more_the_larger_its_budget(case: Case) -> None:
    x, targets = case.sample.x, case.sample.x[case.sample.targets]
    wanted = features(case.teacher, targets)

    def distance(images: Tensor) -> Tensor:
        return (features(case.teacher, images) - wanted).norm(dim=1)

    before = distance(x)
    means = [float(before.mean())]
    for eps in (0.02, 0.05, 0.15):
        after = distance(mimic(case.teacher, x, targets, eps=eps, steps=10))
        assert bool((after <= before + 1e-4).all())  # each image keeps its closest
        means.append(float(after.mean()))
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.4 * means[0]


def test_mimicry_knows_the_teacher_alone_and_still_fools_its_copy_but_hardly_a_stranger(case: Case) -> None:
    sample = case.sample
    crafted = mimic(case.teacher, sample.x, sample.x[sample.targets], eps=0.15, steps=20)
    wanted = sample.y[sample.targets]
    copied = float((logits(case.copied, crafted).argmax(1) == wanted).float().mean())
    stranger = float((logits(case.other, crafted).argmax(1) == wanted).float().mean())
    assert copied > 0.7
    assert copied > stranger + 0.3


def test_a_budget_of_next_to_nothing_fools_nobody(case: Case) -> None:
    sample = case.sample
    assert (
        fooled(case.copied, mimic(case.teacher, sample.x, sample.x[sample.targets], eps=1e-6, steps=5), sample.y) == 0
    )
    assert fooled(case.copied, apgd_ce(case.copied, sample.x, sample.y, eps=1e-6, steps=5, seed=0), sample.y) == 0


def test_no_images_are_no_images(case: Case) -> None:
    x, y = case.sample.x[:0], case.sample.y[:0]
    assert apgd_ce(case.copied, x, y, eps=0.1, steps=2, seed=0).shape == x.shape
    assert mimic(case.teacher, x, x, eps=0.1, steps=2).shape == x.shape
    assert random_noise(x, eps=0.1, seed=0).shape == x.shape


def test_hop_skip_jump_comes_closer_the_more_it_may_ask_and_asks_about_as_much(case: Case) -> None:
    x, y = case.sample.x[:12], case.sample.y[:12]
    starts = case.sample.x[case.sample.targets[:12]]
    few, many = (hop_skip_jump(case.copied, x, y, starts, queries=q, seed=0) for q in (60, 600))
    for found, queries in ((few, 60), (many, 600)):
        assert bool(found.fooled.all())
        assert 0.5 * queries < float(found.queries.float().mean()) < 1.3 * queries
        assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1

    def far(images: Tensor) -> float:
        return float((images - x).abs().flatten(1).amax(1).mean())

    assert far(many.images) < 0.8 * far(few.images) < far(starts)


@pytest.mark.parametrize("architecture", ["simple_cnn", "resnet18"])
def test_the_attacked_copy_answers_as_the_model_does(architecture: str) -> None:
    """Batch norms are folded into convolutions; a trained network's statistics are far from 0 and 1."""
    model = build(ModelSpec(architecture=architecture, classes=("a", "b"), image_size=32), seed=3)
    x = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(20):
        model.train()(x)
    before = model.eval()(x)
    net = Attacked(model, bfloat16=False)
    folded = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert folded < sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x), before)
    for block in model.block_names:
        assert net.features(x, block).shape[0] == len(x)
