"""Batched private networks: each record's gradient is clipped exactly, as Opacus and autograd do it one by one."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy.stats import binom
from torch import nn
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.privacy.stacks import Stacks, Walks, clipped_sums, poisson_batches, train_stacks


def walks(count: int, *, clip: float = 1.0, noise: float = 0.0, rate: float = 0.5) -> Walks:
    return Walks(*(np.full(count, v) for v in (clip, noise, rate)))


def blobs(n: int, *, width: int = 6, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 2
    y = rng.integers(0, classes, n)
    return torch.from_numpy((centres[y] + rng.normal(size=(n, width))).astype(np.float32)), torch.from_numpy(y)


def as_module(stacks: Stacks, i: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for w, b in zip(stacks.weights, stacks.biases, strict=True):
        linear = nn.Linear(w.shape[1], w.shape[2])
        with torch.no_grad():
            linear.weight.copy_(w[i].T)
            linear.bias.copy_(b[i, 0])
        layers += [nn.ReLU(), linear] if layers else [linear]
    return nn.Sequential(*layers)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # Opacus on a first layer
@pytest.mark.parametrize("hidden", [(), (5,), (7, 4)])
def test_clipped_sums_are_opacus(hidden: tuple[int, ...]) -> None:
    x, y = blobs(40)
    start = train_stacks(x, y, walks(2), classes=3, hidden=hidden, sample_rate=0.2, steps=5, seed=1)
    clip = torch.tensor([0.3, 1.2])
    rows, present = torch.arange(24).view(2, 12), torch.ones(2, 12, dtype=torch.bool)
    present[1, 7:] = False
    ours = clipped_sums(x[rows], y[rows], present, start.weights, start.biases, clip=clip)
    for i in range(2):
        module = GradSampleModule(as_module(start, i), loss_reduction="sum")
        optimiser = DPOptimizer(
            torch.optim.SGD(module.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=float(clip[i]),
            expected_batch_size=1, loss_reduction="sum",
        )  # fmt: skip
        own = rows[i][present[i]]
        F.cross_entropy(module(x[own]), y[own], reduction="sum").backward()
        optimiser.pre_step()
        theirs = [p.grad for p in module.parameters()]
        layers = len(start.weights)
        for k in range(layers):
            torch.testing.assert_close(ours[k][i].T, theirs[2 * k], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(ours[layers + k][i, 0], theirs[2 * k + 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_whole_walks_without_noise_are_torchs_on_the_same_batches(name: Literal["sgd", "adam"]) -> None:
    x, y = blobs(50)
    ours = train_stacks(
        x, y, walks(1, clip=1e9, rate=0.1), classes=3, hidden=(5,), sample_rate=0.3, steps=12, optimiser=name,
        momentum=0.9, average=False, seed=3,
    )  # fmt: skip
    module = as_module(
        train_stacks(x, y, walks(1), classes=3, hidden=(5,), sample_rate=0.3, steps=0, average=False, seed=3), 0
    )
    own = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "adam": lambda p: torch.optim.Adam(p, lr=0.1)}
    optimiser, draws = own[name](module.parameters()), np.random.default_rng(3)
    for _ in range(12):
        rows, drawn = poisson_batches(np.array([50]), 0.3, draws)
        batch = rows[0][drawn[0]]
        optimiser.zero_grad()
        (F.cross_entropy(module(x[batch]), y[batch], reduction="sum") / (50 * 0.3)).backward()
        optimiser.step()
    torch.testing.assert_close(ours(x)[0], module(x), atol=1e-4, rtol=1e-4)


def test_noise_has_the_deviation_that_the_accounting_assumes() -> None:
    """From zero weights one step of 400 networks whose gradient is known: what is left over is σ · C / (n · q)."""
    x, y = torch.zeros(100, 2), torch.arange(100) % 2
    many = Walks(np.full(400, 0.7), np.full(400, 1.9), np.full(400, 1.0))
    moved = train_stacks(x, y, many, classes=2, sample_rate=0.25, steps=1, average=False, seed=5)
    deviation = 1.9 * 0.7 / (100 * 0.25)
    assert float(moved.weights[0].std()) == pytest.approx(deviation, rel=0.06)  # records are zero: noise alone
    assert abs(float(moved.weights[0].mean())) < 4 * deviation / 1600**0.5


@given(n=st.integers(1, 400), rate=st.floats(0.01, 1.0), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_batches_hold_each_record_at_most_once(n: int, rate: float, seed: int) -> None:
    rows, drawn = poisson_batches(np.array([n, n, 1]), rate, np.random.default_rng(seed))
    for own, here, records in zip(rows, drawn, (n, n, 1), strict=True):
        assert (np.diff(own[here]) > 0).all()
        assert ((own >= 0) & (own < records)).all()
    if rate == 1.0:
        assert drawn.sum(1).tolist() == [n, n, 1]


def test_batch_sizes_are_binomial_and_records_equally_likely() -> None:
    n, rate, count = 60, 0.15, 6000
    rows, drawn = poisson_batches(np.full(count, n), rate, np.random.default_rng(0))
    seen = np.bincount(rows[drawn], minlength=n)
    assert abs(seen - count * rate).max() < 5 * (count * rate * (1 - rate)) ** 0.5
    sizes = drawn.sum(1)
    wanted = binom.pmf(np.arange(n + 1), n, rate) * count
    found = np.bincount(sizes, minlength=n + 1)
    assert (abs(found - wanted) < 5 * np.sqrt(wanted + 1)).all()


def test_networks_learn_from_their_own_records_alone_and_learn_them() -> None:
    x, y = blobs(300)
    halves = np.zeros((2, 300), bool)
    halves[0, :150], halves[1, 150:] = True, True
    options = {"classes": 3, "hidden": (8,), "sample_rate": 0.2, "steps": 80, "seed": 0}
    both = train_stacks(x, y, walks(2), included=halves, **options)
    assert float((both(x).argmax(2) == y).float().mean()) > 0.9
    other = y.clone()
    other[150:] = (other[150:] + 1) % 3
    changed = train_stacks(x, other, walks(2), included=halves, **options)
    assert torch.equal(both.weights[0][0], changed.weights[0][0])
    assert not torch.equal(both.weights[0][1], changed.weights[0][1])


def test_a_network_that_diverges_takes_no_other_with_it() -> None:
    x, y = blobs(60)
    two = Walks(np.array([1.0, 1e38]), np.zeros(2), np.array([0.5, 1e30]))
    options = {"classes": 3, "hidden": (4,), "sample_rate": 0.5, "steps": 6, "seed": 0}
    both = train_stacks(x * 10, y, two, diverged="zero", **options)
    assert not both.weights[0][1].any()
    assert both.weights[0][0].any()
    assert torch.isfinite(both(x)).all()


def test_what_cannot_be_trained_is_one_clear_error() -> None:
    x, y = blobs(30)
    with pytest.raises(GatehouseError, match="from no record"):
        train_stacks(x, y, walks(1), classes=3, sample_rate=0.5, steps=1, included=np.zeros((1, 30), bool), seed=0)
    with pytest.raises(GatehouseError, match="sample rate must lie"):
        train_stacks(x, y, walks(1), classes=3, sample_rate=1.5, steps=1, seed=0)
    with pytest.raises(GatehouseError, match="same networks"):
        Walks(np.ones(2), np.ones(1), np.ones(2))
    with pytest.raises(GatehouseError, match="must be above 0"):
        walks(1, clip=0.0)
    with pytest.raises(GatehouseError, match="diverged"):
        train_stacks(
            x * 1e30, y, walks(1, clip=1e38, rate=1e30), classes=3, hidden=(4,), sample_rate=1, steps=4, seed=0
        )
