"""Fast adversarial training: how far images move, that they move up the loss, and that students then withstand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from task_of_squares import SPEC, TRAINING, squares
from torch.nn import functional as F

from tasks.models.architectures import Classifier, build
from tasks.models.inference import as_float, logits
from tasks.models.n_fgsm import NOISE, n_fgsm
from tasks.models.training import fit

EPS = 0.15


def moved(x: torch.Tensor, eps: float, share: float, seed: int = 0) -> torch.Tensor:
    """Up the sum of the pixels: every step is +eps."""
    return n_fgsm(
        lambda images, _: images.sum(), x, eps=eps, share=share, generator=torch.Generator().manual_seed(seed)
    )


@settings(max_examples=25, deadline=None)
@given(eps=st.floats(0.001, 0.3), seed=st.integers(0, 99))
def test_images_stay_in_range_and_near_and_the_step_goes_up(eps: float, seed: int) -> None:
    x = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    out = moved(x, eps, 1.0, seed)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert float((out - x).max()) <= (NOISE + 1) * eps + 1e-6
    assert float((out - x).min()) >= (1 - NOISE) * eps - 1e-6  # noise at its lowest, and the step
    assert torch.equal(out, moved(x, eps, 1.0, seed))


def test_the_share_of_moved_images_is_the_one_asked_for() -> None:
    x = torch.full((1000, 1, 4, 4), 0.5)
    share = (moved(x, 0.1, 0.3) != x).flatten(1).any(1).float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.05)


def test_the_way_back_to_what_images_are_made_of_stays_open() -> None:
    leaf = torch.full((4, 1, 4, 4), 0.5, requires_grad=True)
    moved(leaf * 1.0, 0.1, 1.0).sum().backward()
    assert leaf.grad is not None
    assert bool((leaf.grad == 1).all())


def robust(model: Classifier, images, labels) -> float:  # type: ignore[no-untyped-def]
    """Accuracy under twenty signed steps within EPS."""
    x, y = as_float(images), torch.from_numpy(labels)
    changed = x.clone()
    for _ in range(20):
        changed = changed.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(changed), y), changed)
        changed = (changed.detach() + EPS / 5 * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return float((logits(model, changed.detach()).argmax(1) == y).float().mean())


def test_a_network_trained_so_withstands_what_fools_the_plain_one() -> None:
    torch.set_num_threads(1)
    plain = TRAINING.model_copy(update={"epochs": 8, "patience": 8})
    train, val, test = squares(300, seed=0), squares(60, seed=1), squares(150, seed=2)
    found = {}
    for budget in (0.0, EPS):
        model = build(SPEC, seed=0)
        fit(model, train, val, plain.model_copy(update={"adversarial_budget": budget}), policy="all", seed=0)
        right = float((logits(model, test[0]).argmax(1).numpy() == test[1]).mean())
        found[budget] = (right, robust(model, *test))
    assert found[EPS][0] > found[0.0][0] - 0.1
    assert found[EPS][1] > found[0.0][1] + 0.25
