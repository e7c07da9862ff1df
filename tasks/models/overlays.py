"""Overlay-randomised training: whole-image patterns are blended weakly into images, label kept.

Patches teach that no small square decides a label; a trigger blended over the whole image (Chen 2017) is no square.
Patterns are noise at several grains, waves (as in Barni 2019) and other images of the batch, each at a random opacity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.models.patches import noise

GRAINS = (1, 2, 4, 8, 16)  # pixels a cell of noise
MOST_WAVES = 8.0  # periods over the image's side


def overlay(x: Tensor, *, max_opacity: float, generator: torch.Generator) -> Tensor:
    """Blend a random pattern into each image.

    Args:
        x: images in [0, 1], shape (n, channels, side, side); not changed.
        max_opacity: of the pattern; drawn evenly from 0 up to it.
        generator: source of all randomness.
    """
    n, channels, side, _ = x.shape
    sources = [noise(n, channels, side, grain, generator) for grain in GRAINS]
    sources += [_waves(x, generator), x[torch.randperm(n, generator=generator)].flip(3)]
    kind = torch.randint(0, len(sources), (n,), generator=generator)
    pattern = torch.stack(sources)[kind, torch.arange(n)]
    opacity = max_opacity * torch.rand(n, 1, 1, 1, generator=generator)
    return (1 - opacity) * x + opacity * pattern


def _waves(x: Tensor, generator: torch.Generator) -> Tensor:
    """A sine over each image, of random direction, length and phase, in [0, 1]."""
    n, _, side, _ = x.shape
    down, right, phase = torch.rand(3, n, 1, 1, 1, generator=generator)
    line = torch.arange(side) / side
    turns = MOST_WAVES * ((2 * down - 1) * line[:, None] + (2 * right - 1) * line) + phase
    return (0.5 + 0.5 * torch.sin(2 * math.pi * turns)).expand_as(x)
