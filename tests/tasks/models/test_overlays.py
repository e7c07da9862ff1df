"""Overlays stay weak, in range, on the share asked for, and do what they are for: a blended backdoor fades."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.models.augment import disturb
from tasks.models.overlays import overlay
from tasks.models.patch_bank import new_bank
from tasks.params import Training

TRAINING = Training(
    epochs=1, learning_rate=0.003, backbone_scale=1.0, weight_decay=0.0005, batch_size=32, patience=1,
    class_weights=False, patch_probability=0.0, patch_max_fraction=0.2, bfloat16=False,
)  # fmt: skip


def overlaid(x: torch.Tensor, seed: int, opacity: float) -> torch.Tensor:
    return overlay(x, max_opacity=opacity, generator=torch.Generator().manual_seed(seed))


def disturbed(x: torch.Tensor, **recipe: float) -> torch.Tensor:
    """With patches from a bank too, where the recipe asks for them."""
    training = TRAINING.model_copy(update=recipe)
    bank = new_bank(fraction=0.25, image_size=x.shape[-1], channels=1, classes=3, seed=0)
    use = bank if training.patch_adversarial else None
    return disturb(x, torch.arange(len(x)) % 3, training, use, torch.Generator().manual_seed(1))[0].detach()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), opacity=st.floats(0.01, 0.9), channels=st.sampled_from([1, 3]))
def test_pixels_change_by_no_more_than_the_opacity_and_stay_in_range(seed: int, opacity: float, channels: int) -> None:
    x = torch.rand(6, channels, 20, 20, generator=torch.Generator().manual_seed(seed))
    out = overlaid(x, seed, opacity)
    assert out.shape == x.shape
    assert float((out - x).abs().max()) <= opacity + 1e-6
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert torch.equal(out, overlaid(x, seed, opacity))


def changed_share(x: torch.Tensor, out: torch.Tensor) -> float:
    return float((out != x).flatten(1).any(1).float().mean())


def test_the_share_of_changed_images_is_the_one_asked_for() -> None:
    x = torch.rand(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert changed_share(x, disturbed(x, overlay_probability=0.4)) == pytest.approx(0.4, abs=0.04)


def test_an_image_carries_patches_or_an_overlay_but_not_both() -> None:
    """A patch leaves most of an image as it was, an overlay next to nothing of it."""
    x = torch.rand(2000, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    out = disturbed(x, overlay_probability=0.4, patch_probability=1.0, patch_adversarial=1.0)
    moved = (out - x).abs().flatten(1)
    overlaid = (moved > 0).float().mean(1) > 0.9
    assert float(overlaid.float().mean()) == pytest.approx(0.4, abs=0.04)
    assert float(moved[overlaid].max()) <= TRAINING.overlay_max_opacity + 1e-6
    assert bool((moved[~overlaid].max(1).values > TRAINING.overlay_max_opacity).float().mean() > 0.8)


def test_every_kind_of_pattern_comes_up() -> None:
    """Noise of five grains leaves equal cells, waves and other images do not: each shows in the differences."""
    x = torch.zeros(700, 1, 16, 16)
    x[0] = 1.0  # the one other image that can be told
    out = overlaid(x, 3, 0.5)[1:]

    def of_cells(g: int) -> int:
        coarse = out[:, :, ::g, ::g].repeat_interleave(g, 2).repeat_interleave(g, 3)
        return int((coarse == out).flatten(1).all(1).sum())

    counts = [of_cells(g) for g in (1, 2, 4, 8, 16)]
    assert all(finer > coarser > 0 for finer, coarser in itertools.pairwise(counts))


def test_a_recipe_without_overlays_and_patches_leaves_images_alone() -> None:
    x = torch.rand(4, 1, 8, 8)
    assert disturb(x, torch.zeros(4, dtype=torch.long), TRAINING, None, torch.Generator())[0] is x
    assert not TRAINING.changes_images
    assert TRAINING.model_copy(update={"overlay_probability": 1.0}).changes_images
