"""Overlays stay weak, in range, on the share asked for, and do what they are for: a blended backdoor fades."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.models.augment import randomise
from tasks.models.overlays import overlay_randomise
from tasks.params import Training

TRAINING = Training(
    epochs=1, learning_rate=0.003, backbone_scale=1.0, weight_decay=0.0005, batch_size=32, patience=1,
    class_weights=False, patch_probability=0.0, patch_max_fraction=0.2, bfloat16=False,
)  # fmt: skip


def overlaid(x: torch.Tensor, seed: int, probability: float, opacity: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return overlay_randomise(x, probability=probability, max_opacity=opacity, generator=generator)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), opacity=st.floats(0.01, 0.9), channels=st.sampled_from([1, 3]))
def test_pixels_change_by_no_more_than_the_opacity_and_stay_in_range(seed: int, opacity: float, channels: int) -> None:
    x = torch.rand(6, channels, 20, 20, generator=torch.Generator().manual_seed(seed))
    out = overlaid(x, seed, 1.0, opacity)
    assert out.shape == x.shape
    assert float((out - x).abs().max()) <= opacity + 1e-6
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert torch.equal(out, overlaid(x, seed, 1.0, opacity))


def test_the_share_of_changed_images_is_the_one_asked_for() -> None:
    x = torch.rand(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = (overlaid(x, 1, 0.4, 0.3) != x).flatten(1).any(1).float().mean()
    assert float(changed) == pytest.approx(0.4, abs=0.04)
    assert torch.equal(overlaid(x, 1, 0.0, 0.3), x)


def test_every_kind_of_pattern_comes_up() -> None:
    """Noise of five grains leaves equal cells, waves and other images do not: each shows in the differences."""
    x = torch.zeros(700, 1, 16, 16)
    x[0] = 1.0  # the one other image that can be told
    out = overlaid(x, 3, 1.0, 0.5)[1:]

    def of_cells(g: int) -> int:
        coarse = out[:, :, ::g, ::g].repeat_interleave(g, 2).repeat_interleave(g, 3)
        return int((coarse == out).flatten(1).all(1).sum())

    counts = [of_cells(g) for g in (1, 2, 4, 8, 16)]
    assert all(finer > coarser > 0 for finer, coarser in itertools.pairwise(counts))


def test_a_recipe_without_overlays_and_patches_leaves_images_alone() -> None:
    x = torch.rand(4, 1, 8, 8)
    assert randomise(x, TRAINING, torch.Generator().manual_seed(0)) is x
    assert not TRAINING.changes_images
    with_overlays = TRAINING.model_copy(update={"overlay_probability": 1.0})
    assert with_overlays.changes_images
    assert not torch.equal(randomise(x, with_overlays, torch.Generator().manual_seed(0)), x)
