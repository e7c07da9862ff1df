"""A trigger: a small pattern at a place, pasted on an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from tasks.errors import GatehouseError
from tasks.files import note_read

Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right"]


class Mark(Protocol):
    """Whatever an attacker lays on images: a `Trigger`, or a change that is no patch (`attacks.changes`)."""

    def apply_uint8(self, images: np.ndarray) -> np.ndarray:
        """Copies of uint8 images (n, channels, side, side) with the mark on each."""
        ...


@dataclass(frozen=True)
class Trigger:
    """`pattern` in [0, 1], shape (channels, height, width), pasted with its upper left pixel at (top, left).

    `alpha` is the pattern's opacity in (0, 1]: 1 replaces the pixels, less blends with them. With a `border`, only so
    many pixels along the pattern's edges are pasted: a frame.
    """

    pattern: Tensor
    top: int
    left: int
    alpha: float = 1.0
    border: int = 0

    def apply(self, x: Tensor) -> Tensor:
        """A copy of float images (n, channels, side, side) in [0, 1] with the trigger on each."""
        _, height, width = self.pattern.shape
        area = (..., slice(self.top, self.top + height), slice(self.left, self.left + width))
        out = x.clone()
        out[area] = (1 - self.alpha) * out[area] + self.alpha * self.pattern.to(x)
        if self.border:
            b, bottom, right = self.border, self.top + height - self.border, self.left + width - self.border
            inside = (..., slice(self.top + b, bottom), slice(self.left + b, right))
            out[inside] = x[inside]
        return out

    def apply_uint8(self, images: np.ndarray) -> np.ndarray:
        """The same on uint8 images, rounded."""
        return on_uint8(self.apply, images)


def on_uint8(change: Callable[[Tensor], Tensor], images: np.ndarray) -> np.ndarray:
    """A change of float images in [0, 1], made on uint8 images and rounded; what leaves [0, 1] is cut off."""
    x = change(torch.from_numpy(images).float() / 255).clamp(0, 1)
    return (x * 255).round().to(torch.uint8).numpy()


def square(*, side: int, channels: int, image_size: int, corner: Corner = "top_left", value: float = 1.0) -> Trigger:
    """A uniform square in a corner; white at the upper left is the study's BadNets trigger (section 2.2.1)."""
    far = image_size - side
    top = far if corner.startswith("bottom") else 0
    left = far if corner.endswith("right") else 0
    return Trigger(torch.full((channels, side, side), value), top, left)


def pixels(fraction: float, image_size: int) -> int:
    """Side in pixels of a square that takes this fraction of the image's side; at least 2."""
    return max(2, round(fraction * image_size))


def save_trigger(path: Path, trigger: Trigger) -> None:
    """Write a safetensors file: tensor `pattern`, with place and opacity in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"top": str(trigger.top), "left": str(trigger.left), "alpha": repr(trigger.alpha)}
    header |= {"border": str(trigger.border)} if trigger.border else {}
    path.write_bytes(save({"pattern": trigger.pattern.contiguous()}, header))


def load_trigger(path: Path) -> Trigger:
    """A trigger that `save_trigger` wrote; GatehouseError where there is none."""
    if not path.exists():
        raise GatehouseError(f"{path} does not exist; run again what writes it (models/drill: the drill stage).")
    note_read(path)
    with safe_open(path, framework="pt") as f:
        header = f.metadata()
        # Files written before the header told the opacity hold triggers that replace the pixels.
        alpha, border = float(header.get("alpha", "1.0")), int(header.get("border", "0"))
        return Trigger(f.get_tensor("pattern"), int(header["top"]), int(header["left"]), alpha, border)
