"""Certificates against a model whose smoothed answer is known in closed form, and against what attacks reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SPEC, Case
from scipy import stats
from torch import Tensor, nn

from tasks.evasion.smoothing import Certified, certified_accuracy, certify
from tasks.models.architectures import Classifier, build

SIGMA = 0.1


class FirstPixel(nn.Module):
    """Two features: whether the first pixel lies above the middle, and whether below."""

    def forward(self, x: Tensor) -> Tensor:
        above = (x[:, 0, 0, 0] > 0).float()  # normalised: the middle is 0
        return torch.stack([above, 1 - above, torch.zeros_like(above)], 1)


@pytest.fixture
def halves() -> Classifier:
    model = build(SPEC, seed=0)
    model.blocks = nn.ModuleDict({"only": FirstPixel()})
    model.width, model.head = 3, nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(3))
    return model.eval()


def test_the_radius_is_the_distance_to_a_plane_from_below(halves: Classifier) -> None:
    """For a half-space the smoothed radius is the distance itself (Cohen 2019, section 3.1)."""
    far = (0.05, 0.1, 0.2)
    x = torch.stack([torch.full((1, 16, 16), 0.5 + d) for d in far])
    found = certify(halves, x, sigma=SIGMA, samples=4000, seed=0)
    assert found.answers.tolist() == [0, 0, 0]
    assert all(found.radius <= np.array(far) + 1e-9)  # holds but once in a thousand images
    assert found.radius[:2] == pytest.approx(far[:2], abs=0.02)
    most = SIGMA * float(stats.norm.ppf(0.001 ** (1 / 4000)))  # all samples agree
    assert found.radius.max() <= most + 1e-9


def test_where_the_vote_is_even_it_abstains(halves: Classifier) -> None:
    found = certify(halves, torch.full((4, 1, 16, 16), 0.5), sigma=SIGMA, samples=500, seed=0)
    assert (found.answers == -1).mean() >= 0.75
    assert found.radius[found.answers == -1].tolist() == [0.0] * int((found.answers == -1).sum())


def test_certified_accuracy_falls_with_the_radius_and_repeats(case: Case) -> None:
    x, y = case.sample.x[:12], case.sample.y[:12].numpy()
    found, again = (certify(case.other, x, sigma=0.05, samples=200, seed=1) for _ in range(2))
    assert found.radius.tolist() == again.radius.tolist()
    shares = [row["value"] for row in certified_accuracy(found, y, (0.0, 0.05, 0.1, 10.0))]
    assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]
    assert shares[0] > 0.5  # type: ignore[operator]
    assert shares[-1] == 0


def test_a_wrong_answer_is_never_counted() -> None:
    found = Certified(np.array([0, 1, -1]), np.array([1.0, 1.0, 0.0]))
    (row,) = certified_accuracy(found, np.array([0, 0, 0]), (0.5,))
    assert (row["value"], row["n"]) == (pytest.approx(1 / 3, abs=1e-6), 3)
