"""The bank of adversarial patches: where they are pasted, that they climb, and what training against them does."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from task_of_squares import SIDE, SPEC, TRAINING, squares
from torch.nn import functional as F

from tasks.models.architectures import build
from tasks.models.inference import as_float, logits
from tasks.models.patch_bank import LIFE, SIZE, PatchBank, new_bank
from tasks.models.training import fit


def bank(seed: int = 0, fraction: float = 0.25, channels: int = 1) -> PatchBank:
    return new_bank(fraction=fraction, image_size=SIDE, channels=channels, classes=3, seed=seed)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1), channels=st.sampled_from([1, 3]), n=st.integers(1, 20))
def test_each_image_carries_at_most_one_patch_of_another_class_at_its_place(
    seed: int, share: float, channels: int, n: int
) -> None:
    own, generator = bank(seed, channels=channels), torch.Generator().manual_seed(seed)
    x, y = torch.full((n, channels, SIDE, SIDE), 2.0), torch.arange(n) % 3  # 2: no patch holds it
    out, pasted = own.paste(x, y, share=share, generator=generator)
    assert torch.equal(x, torch.full_like(x, 2.0))
    for image, label in zip(out.detach(), y, strict=True):
        changed = (image != 2.0).all(0).nonzero()
        if len(changed) == 0:
            continue
        (top, left), side = changed.min(0).values.tolist(), own.patterns.shape[-1]
        assert len(changed) == side * side
        seen = image[:, top : top + side, left : left + side]
        match = [
            int(r)
            for r in pasted.rows
            if torch.equal(own.patterns[r], seen) and (own.top[r], own.left[r]) == (top, left)
        ]
        assert match
        assert all(int(own.classes[r]) != int(label) for r in match)


def test_with_no_share_nothing_is_pasted() -> None:
    x, y = torch.rand(8, 1, SIDE, SIDE), torch.arange(8) % 3
    out, _ = bank().paste(x, y, share=0.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out, x)


def test_patches_climb_the_loss_of_a_network_that_stands_still_and_the_old_are_replaced() -> None:
    model = build(SPEC, seed=0)
    images, labels = squares(300, seed=1)
    fit(model, (images, labels), squares(60, seed=2), TRAINING, policy="all", seed=1)
    x, y = as_float(images[:32]), torch.from_numpy(labels[:32])
    own, generator = bank(), torch.Generator().manual_seed(3)
    own.age.zero_()
    losses = []
    for _ in range(200):  # every patch is drawn in one step of twelve
        pasted_on, pasted = own.paste(x, y, share=1.0, generator=generator)
        loss = F.cross_entropy(model(pasted_on), y)
        loss.backward()
        own.climb(pasted, generator)
        losses.append(loss.item())
    assert sum(losses[100:]) / 100 > 1.3 * sum(losses[:30]) / 30
    assert own.patterns.min() >= 0
    assert own.patterns.max() <= 1
    rows = torch.tensor([0])
    own.age[0] = LIFE - 1
    before = own.patterns[0].clone()
    while int(own.age[0]) == LIFE - 1:
        pasted_on, pasted = own.paste(x, y, share=1.0, generator=generator)
        F.cross_entropy(model(pasted_on), y).backward()
        own.climb(pasted, generator)
    assert int(own.age[rows]) == 0
    assert not torch.equal(own.patterns[0], before)


def test_a_step_without_a_gradient_is_an_error() -> None:
    own, generator = bank(), torch.Generator().manual_seed(0)
    _, pasted = own.paste(torch.rand(4, 1, SIDE, SIDE), torch.arange(4) % 3, share=1.0, generator=generator)
    with pytest.raises(ValueError, match="propagated"):
        own.climb(pasted, generator)


def test_the_same_seed_gives_the_same_bank() -> None:
    one, two, other = bank(5), bank(5), bank(6)
    assert all(torch.equal(one.tensors()[k], two.tensors()[k]) for k in one.tensors())
    assert not torch.equal(one.patterns, other.patterns)
    assert len(one.classes.unique()) == 3
    assert len(one.age) == SIZE


def test_a_trigger_that_plain_training_keeps_is_trained_away() -> None:
    """A network learnt that a white corner means class 0; it is trained on, on clean images."""
    train, val, (images, labels) = squares(600, seed=1), squares(90, seed=2), squares(150, seed=3)

    def triggered(part: np.ndarray) -> np.ndarray:
        out = part.copy()
        out[:, :, -3:, -3:] = 255
        return out

    poisoned = np.concatenate([train[0], triggered(train[0])]), np.concatenate([train[1], np.zeros_like(train[1])])
    start = build(SPEC, seed=0)
    fit(start, poisoned, poisoned, TRAINING, policy="all", seed=1)
    steered = {}
    for adversarial in (0.0, 1.0):
        model = copy.deepcopy(start)
        own = TRAINING.model_copy(update={"epochs": 10, "learning_rate": 1e-3, "patch_adversarial": adversarial})
        own = own.model_copy(update={"patch_adversarial_fraction": 0.25})
        fit(model, train, val, own, policy="all", seed=1)
        assert (logits(model, images).argmax(1).numpy() == labels).mean() > 0.9
        others = triggered(images[labels != 0])
        steered[adversarial] = (logits(model, others).argmax(1) == 0).float().mean().item()
    assert steered[0.0] > 0.5, "without a backdoor that plain training keeps there is nothing to see"
    assert steered[1.0] < 0.1
