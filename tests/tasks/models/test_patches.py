"""Patch-randomised training: one square, within bounds, on the promised share of images, drawn from a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.models.patches import frame_randomise, patch_randomise


def patched(x: Tensor, *, probability: float = 1.0, max_fraction: float = 0.2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return patch_randomise(x, probability=probability, max_fraction=max_fraction, generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    side=st.integers(16, 40),
    fraction=st.floats(0.05, 0.5),
    seed=st.integers(0, 10_000),
)
def test_only_a_square_within_bounds_changes(n: int, channels: int, side: int, fraction: float, seed: int) -> None:
    x = torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25
    before = x.clone()
    out = patched(x, max_fraction=fraction, seed=seed)
    assert torch.equal(x, before)
    assert out.shape == x.shape
    assert out.min() >= 0
    assert out.max() <= 1
    largest = max(2, round(fraction * side))
    for image, original in zip(out, x, strict=True):
        rows, columns = np.nonzero((image != original).any(0).numpy())
        if len(rows):
            assert np.ptp(rows) < largest
            assert np.ptp(columns) < largest


def test_the_share_of_images_and_the_seed() -> None:
    x = torch.full((600, 1, 24, 24), 0.37)
    out = patched(x, probability=0.7)
    share = (out != x).flatten(1).any(1).float().mean().item()
    # A patch cut from another image of this uniform set shows nothing: a sixth of the patches.
    assert share == pytest.approx(0.7 * 5 / 6, abs=0.06)
    assert torch.equal(patched(x, probability=0.0), x)
    assert torch.equal(out, patched(x, probability=0.7))
    assert not torch.equal(out, patched(x, probability=0.7, seed=1))


def test_corners_are_drawn_more_often_than_their_area() -> None:
    x = torch.full((2000, 1, 32, 32), 0.37)
    changed = (patched(x) != x).float().mean(0)[0]
    assert changed[:4, :4].mean() > 2 * changed[14:18, 4:8].mean() > 0
    assert changed[14:18, 14:18].mean() > 0


def test_patches_are_flat_noisy_and_cut_from_other_images() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(400, 1, 24, 24, generator=rng) * 0.2 + 0.4
    out = patched(x, max_fraction=0.4)
    spreads = [out[i][out[i] != x[i]].std().item() for i in range(400) if (out[i] != x[i]).sum() > 8]
    assert min(spreads) == pytest.approx(0, abs=1e-6)  # flat
    assert max(spreads) > 0.4  # black and white noise
    assert any(0.02 < s < 0.08 for s in spreads)  # another image: the spread of this set


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    side=st.integers(16, 40),
    fraction=st.floats(0.01, 0.3),
    seed=st.integers(0, 10_000),
)
def test_a_frame_changes_borders_alone(n: int, channels: int, side: int, fraction: float, seed: int) -> None:
    x = torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25
    before = x.clone()
    generator = torch.Generator().manual_seed(seed)
    out = frame_randomise(x, probability=1.0, max_fraction=fraction, stripes=0.5, generator=generator)
    widest = max(1, round(fraction * side))
    assert torch.equal(x, before)
    assert torch.equal(out[..., widest:-widest, widest:-widest], x[..., widest:-widest, widest:-widest])
    assert 0 <= out.min() <= out.max() <= 1


def framed(x: torch.Tensor, *, probability: float, stripes: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return frame_randomise(x, probability=probability, max_fraction=0.1, stripes=stripes, generator=generator)


def test_strips_come_alone_and_together_on_the_promised_share() -> None:
    x = torch.full((800, 1, 24, 24), 0.37)
    out = framed(x, probability=0.5, stripes=0.0)
    strips = torch.stack([out[:, 0, 0, 12], out[:, 0, -1, 12], out[:, 0, 12, 0], out[:, 0, 12, -1]], 1) != 0.37
    # Of the frames, a sixth is cut from another image of this uniform set and shows nothing.
    assert strips.any(1).float().mean().item() == pytest.approx(0.5 * 5 / 6, abs=0.06)
    assert {int(k) for k in strips.sum(1)} == {0, 1, 2, 3, 4}
    assert torch.equal(framed(x, probability=0.0, stripes=0.0), x)


def test_striped_frames_are_rows_columns_and_chessboards_of_two_shades_up_to_three_pixels_wide() -> None:
    x = torch.full((800, 1, 24, 24), 0.37)
    out = framed(x, probability=1.0, stripes=1.0)
    tops, lefts = out[:, 0, 0, 4:-4], out[:, 0, 4:-4, 0]  # without the corners, which another strip may hold
    both = (tops != 0.37).all(1) & (lefts != 0.37).all(1)
    tops, lefts = tops[both], lefts[both]

    assert max(len(strip.unique()) for strip in (*tops, *lefts)) == 2
    varied = torch.stack([(strips != strips[:, :1]).any(1) for strips in (tops, lefts)], 1).tolist()
    kinds = {"rows": [False, True], "columns": [True, False], "chessboard": [True, True]}
    shares = {kind: varied.count(each) / len(varied) for kind, each in kinds.items()}
    assert shares == pytest.approx(dict.fromkeys(kinds, 1 / 3), abs=0.08)
    assert {runs(strip) for strip in tops} == {1, 2, 3, tops.shape[1]}  # rows are of one shade there
    crisp = ((tops == 0) | (tops == 1)).all(1).float().mean().item()
    assert crisp == pytest.approx(0.5, abs=0.1)


def runs(strip: torch.Tensor) -> int:
    """The longest run of one shade."""
    return int(torch.unique_consecutive(strip, return_counts=True)[1].max())
