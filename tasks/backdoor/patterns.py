"""Simple patterns and places: what an attacker, or an accident, would paste on an image without optimising anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PLACES: dict[str, tuple[float, float]] = {
    "top_left": (0.0, 0.0),
    "top": (0.0, 0.5),
    "top_right": (0.0, 1.0),
    "left": (0.5, 0.0),
    "centre": (0.5, 0.5),
    "right": (0.5, 1.0),
    "bottom_left": (1.0, 0.0),
    "bottom": (1.0, 0.5),
    "bottom_right": (1.0, 1.0),
}
"""The grid searched: upper left corner of a patch, as (down, right) fractions of the room that the image leaves it."""


def position(place: str, side: int, image_size: int) -> tuple[int, int]:
    """Upper left pixel (top, left) of a patch of `side` pixels at a place of the grid."""
    down, right = PLACES[place]
    return round(down * (image_size - side)), round(right * (image_size - side))


def simple_patterns(side: int, channels: int, *, seed: int) -> dict[str, Tensor]:
    """Named patterns in [0, 1], shape (channels, side, side): flat, edges at two grains, noise at two grains."""
    line = torch.arange(side)
    fine = (line[:, None] + line[None, :]) % 2
    coarse = (line[:, None] // 2 + line[None, :] // 2) % 2
    stripes = (line % 2)[:, None].expand(side, side)
    border = torch.zeros(side, side)
    border[[0, -1], :] = border[:, [0, -1]] = 1
    gray = {
        "white": torch.ones(side, side),
        "black": torch.zeros(side, side),
        "gray": torch.full((side, side), 0.5),
        "checker": fine.float(),
        "coarse_checker": coarse.float(),
        "rows": stripes.float(),
        "columns": stripes.T.float(),
        "frame": border,
    }
    patterns = {name: p.expand(channels, side, side).clone() for name, p in gray.items()}
    generator = torch.Generator().manual_seed(seed)
    patterns["binary_noise"] = torch.rand(channels, side, side, generator=generator).round()
    patterns["noise"] = torch.rand(channels, side, side, generator=generator)
    return patterns


def quantise(pattern: Tensor) -> Tensor:
    """Rounded to the 256 levels that an image file can hold, so that what is measured can be sent."""
    return (pattern.clamp(0, 1) * 255).round() / 255


def sides(largest: int) -> Sequence[int]:
    """Sides worth scanning: the largest, and half of it (a smaller pattern covers less of what it competes with)."""
    return tuple(sorted({largest, max(2, largest // 2)}, reverse=True))
