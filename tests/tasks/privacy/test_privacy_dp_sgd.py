"""DP-SGD against plain SGD, its sensitivity and its noise; and that the head it gives fits into a classifier."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.models.architectures import ModelSpec, build
from tasks.models.inference import features, logits
from tasks.privacy.accounting import delta_for, noise_for
from tasks.privacy.dp_sgd import UNCLIPPED, Plan, batches, train_head, with_head
from tasks.privacy.whitening import whitening

torch.set_num_threads(1)


def blobs(n=300, width=8, classes=3, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 2
    x = centres[y] + spread * rng.normal(size=(n, width))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def plain_sgd(x, y, classes, steps, rate, momentum):
    """Full-batch SGD as torch has it, and the mean of its iterates over the second half."""
    head = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.SGD(head.parameters(), lr=rate, momentum=momentum)
    kept = []
    for step in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(head(x), y).backward()
        optimiser.step()
        if step >= steps // 2:
            kept.append((head.weight.detach().clone(), head.bias.detach().clone()))
    return torch.stack([w for w, _ in kept]).mean(0), torch.stack([b for _, b in kept]).mean(0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_noise_and_clipping_it_is_plain_sgd(momentum):
    x, y = blobs()
    plan = Plan(1.0, 11, 0.05, UNCLIPPED, 0.0, momentum)
    head = train_head(x, y, classes=3, plan=plan, seed=1)
    weight, bias = plain_sgd(x, y, 3, 11, 0.05, momentum)
    torch.testing.assert_close(head.weight.detach(), weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.bias.detach(), bias, rtol=1e-4, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 39), st.floats(0.1, 5), st.floats(1, 1e4))
def test_one_record_moves_a_step_by_no_more_than_the_clipping_norm(dropped, clip, size):
    x, y = blobs(40, 5)
    x[dropped] *= size  # however extreme the record
    rest = torch.arange(40) != dropped

    def step(xs, ys):
        """Sum of clipped gradients: the step times what the optimiser divided it by."""
        head = train_head(xs, ys, classes=3, plan=Plan(1.0, 1, 1.0, clip, 0.0), seed=0)
        return torch.cat([head.weight.detach().flatten(), head.bias.detach()]) * len(ys)

    assert float((step(x, y) - step(x[rest], y[rest])).norm()) <= clip * (1 + 1e-3)


def test_noise_has_the_deviation_that_the_accounting_assumes():
    x, y = torch.zeros(20, 4000), torch.arange(20) % 2
    plan = Plan(1.0, 1, 1.0, 0.5, 3.0)
    head = train_head(x, y, classes=2, plan=plan, seed=5)
    # No record moves the weights (all features are 0): they hold noise alone, divided by the 20 records.
    weight = head.weight.detach()
    assert float(weight.std()) * 20 == pytest.approx(3.0 * 0.5, rel=0.05)
    assert abs(float(weight.mean())) * 20 < 0.1


def test_batches_are_poisson_samples_and_may_be_empty():
    x, y = blobs(12)
    head = train_head(x, y, classes=3, plan=Plan(0.02, 40, 0.1, 1.0, 0.0), seed=3)
    assert torch.isfinite(head.weight).all()


def test_the_same_seed_gives_the_same_head_and_another_seed_another():
    x, y = blobs(60)
    plan = Plan(0.5, 10, 0.5, 1.0, 1.0)
    one, again, other = (train_head(x, y, classes=3, plan=plan, seed=s).weight for s in (4, 4, 5))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=1e-3)


def test_at_epsilon_8_the_private_head_is_far_above_chance_and_progress_is_told():
    x, y = blobs(900, 16)
    rate, steps = batches(len(y), 128, 20)
    noise = noise_for(8.0, sample_rate=rate, steps=steps, delta=delta_for(len(y)))
    whiten = whitening(blobs(500, 16, seed=7)[0])
    told = []
    head = train_head(
        whiten(x), y, classes=3, plan=Plan(rate, steps, 2.0, 1.0, noise), seed=1, progress=lambda *at: told.append(at)
    )
    fresh, truth = blobs(600, 16, seed=8)
    folded = whiten.fold(head)
    torch.testing.assert_close(folded(fresh), head(whiten(fresh)), rtol=1e-3, atol=1e-4)
    assert float((folded(fresh).argmax(1) == truth).float().mean()) > 0.85
    assert told[-1] == (steps, steps)


def test_the_folded_head_is_a_classifiers_head():
    spec = ModelSpec(architecture="simple_cnn", classes=("a", "b", "c"), image_size=16)
    model = build(spec, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 16, 16), dtype=np.uint8)
    raw = features(model, images)
    whiten = whitening(raw)
    head = train_head(whiten(raw), torch.arange(30) % 3, classes=3, plan=Plan(1.0, 5, 1.0, 1.0, 0.0), seed=0)
    with_head(model, whiten.fold(head))
    torch.testing.assert_close(logits(model, images), head(whiten(raw)).detach(), rtol=1e-3, atol=1e-3)


def test_whitened_features_have_unit_norm_on_average_and_dead_ones_do_no_harm():
    x = blobs(400, 6)[0] @ torch.diag(torch.tensor([100.0, 1, 1, 1, 0.5, 0]))
    z = whitening(x)(x)
    assert float(z.square().sum(1).mean()) == pytest.approx(1.0, rel=1e-3)
    cov = torch.cov(whitening(x[:, 1:5])(x[:, 1:5]).T)
    torch.testing.assert_close(cov, torch.eye(4) / 4, atol=0.01, rtol=0)
    assert torch.isfinite(whitening(torch.ones(10, 3))(torch.ones(10, 3))).all()


def test_clear_errors():
    x, y = blobs(30)
    with pytest.raises(GatehouseError, match=r"30 records but privacy.batch_size = 64"):
        batches(30, 64, 5)
    with pytest.raises(GatehouseError, match="at least two classes"):
        train_head(x, torch.zeros_like(y), classes=3, plan=Plan(1.0, 1, 1.0, 1.0, 0.0), seed=0)
    with pytest.raises(GatehouseError, match=r"diverged; lower privacy\.learning_rate"):
        train_head(x, y, classes=3, plan=Plan(1.0, 9, 3e38, UNCLIPPED, 0.0), seed=0)
    with pytest.raises(GatehouseError, match="at least two images"):
        whitening(x[:1])
    assert batches(1000, 256, 3) == (0.25, 12)
