"""Private training of whole networks: plain SGD without noise, noise of the right size, and no proof where none is."""

from __future__ import annotations

import copy

import pytest
import torch
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import nn
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.privacy import private_network
from tasks.privacy.dp_sgd import UNCLIPPED, Plan
from tasks.privacy.private_network import group_norm_cnn, require_separable, train_privately


def task(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright above or below the middle."""
    y = torch.arange(n) % 2
    x = torch.rand((n, 1, 16, 16), generator=torch.Generator().manual_seed(0)) * 0.2
    x[y == 0, :, :8] += 0.6
    x[y == 1, :, 8:] += 0.6
    return x, y


def test_without_clipping_and_noise_it_is_plain_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_network, "AT_ONCE", 7)  # every batch goes through in parts
    x, y = task()
    start, plan = group_norm_cnn(2, 1, width=4, seed=1), Plan(0.4, 6, 0.1, UNCLIPPED, 0.0)
    trained = train_privately(start, x, y, plan=plan, seed=3)
    own, generator = copy.deepcopy(start), torch.Generator().manual_seed(3)
    optimiser = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    mean, count = [torch.zeros_like(p) for p in own.parameters()], 0
    sampler = UniformWithReplacementSampler(num_samples=60, sample_rate=0.4, generator=generator, steps=6)
    for step, rows in enumerate(sampler):
        optimiser.zero_grad()
        (F.cross_entropy(own(x[rows]), y[rows], reduction="sum") / (60 * 0.4)).backward()
        optimiser.step()
        if step >= 3:
            count += 1
            mean = [m + (p.detach() - m) / count for m, p in zip(mean, own.parameters(), strict=True)]
    for ours, theirs in zip(trained.parameters(), mean, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_it_learns_under_noise_and_noise_has_the_size_that_is_accounted() -> None:
    x, y = task(200)
    trained = train_privately(group_norm_cnn(2, 1, width=8, seed=1), x, y, plan=Plan(0.5, 60, 0.5, 1.0, 1.0), seed=3)
    assert (trained(x).argmax(1) == y).float().mean() > 0.9
    # Records that are answered alike whatever their label give gradients of the head's bias alone: the rest is noise.
    start = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    nn.init.zeros_(start[1].weight)
    moved = train_privately(start, torch.zeros(200, 256), y, plan=Plan(0.5, 1, 1.0, 0.7, 1.9, momentum=0.0), seed=5)
    assert float(moved[1].weight.std()) == pytest.approx(1.9 * 0.7 / (200 * 0.5), rel=0.12)


def test_a_network_whose_records_share_statistics_is_refused() -> None:
    mixing = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    with pytest.raises(GatehouseError, match="1 normalises by the batch"):
        require_separable(mixing)
    with pytest.raises(GatehouseError, match="No ε can be proven"):
        train_privately(mixing, *task(), plan=Plan(0.5, 1, 0.1, 1.0, 1.0), seed=0)
    require_separable(group_norm_cnn(3, 1, seed=0))
    with pytest.raises(GatehouseError, match="diverged"):
        train_privately(group_norm_cnn(2, 1, width=4, seed=0), *task(), plan=Plan(0.5, 8, 1e30, UNCLIPPED, 0.0), seed=0)
