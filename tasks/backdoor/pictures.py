"""A trigger as people can look at it."""

from __future__ import annotations

import numpy as np

from tasks.backdoor.triggers import Trigger

SIDE = 192  # of each picture, in pixels
GAP = 8


def shown(image: np.ndarray, trigger: Trigger) -> np.ndarray:
    """An image without and with the trigger, and the pattern alone, side by side; uint8 (height, width, 3).

    Args:
        image: uint8 (channels, side, side).
    """
    triggered = trigger.apply_uint8(image[None])[0]
    pattern = (trigger.pattern.numpy() * 255).round().astype(np.uint8)
    panels = [_enlarged(part) for part in (image, triggered, pattern)]
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def _enlarged(part: np.ndarray) -> np.ndarray:
    """Nearest pixels, (channels, side, side) to (SIDE, SIDE, 3)."""
    rows = np.arange(SIDE) * part.shape[1] // SIDE
    columns = np.arange(SIDE) * part.shape[2] // SIDE
    picture = part[:, rows][:, :, columns].transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(picture, (SIDE, SIDE, 3)))
