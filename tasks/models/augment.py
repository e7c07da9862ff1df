"""What a recipe changes in training images so that no trigger-like pattern decides a label."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.models.overlays import overlay_randomise
from tasks.models.patches import patch_randomise
from tasks.params import Training


def randomise(x: Tensor, training: Training, generator: torch.Generator) -> Tensor:
    """Images (n, channels, side, side) in [0, 1] with the recipe's random overlays and patches; `x` is not changed."""
    if training.overlay_probability:
        x = overlay_randomise(
            x, probability=training.overlay_probability, max_opacity=training.overlay_max_opacity, generator=generator
        )
    if training.patch_probability:
        x = patch_randomise(
            x, probability=training.patch_probability, max_fraction=training.patch_max_fraction, generator=generator
        )
    return x
