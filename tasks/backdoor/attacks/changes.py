"""Triggers that are no patch at one place: changes of the whole image, scattered or moving marks.

They are for trying the pipeline on what nothing in it was chosen on; `attacks.badnets` plants them like a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import pi

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.backdoor.triggers import Trigger, on_uint8

AMPLITUDE, CYCLES = 20 / 255, 6  # of the sinusoid, as its paper has them
GRID, STRENGTH = 4, 0.5  # of the warp, as its paper has them
GAMMA = 0.6
SHADE = 0.35
PIXELS = 12
# The strokes of an L, as X-rays carry it to tell the side, in (height, width) of about a seventh of the image.
MARKER = ("#....", "#....", "#....", "#....", "#....", "#....", "#####")


@dataclass(frozen=True)
class Change:
    """A change of images, to be planted like a `Trigger`."""

    name: str
    to: Callable[[Tensor], Tensor]  # float images (n, channels, side, side) in [0, 1], not changed in place

    def apply_uint8(self, images: np.ndarray) -> np.ndarray:
        """Copies of uint8 images with the change on each, rounded."""
        return on_uint8(self.to, images)


def change(name: str, image_size: int, *, seed: int) -> Change:
    """One of `CHANGES`, for square images; `seed` decides where pixels, marks and bends are."""
    generator = torch.Generator().manual_seed(seed)
    return Change(name, CHANGES[name](image_size, generator))


def sinusoid(size: int, _: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Vertical stripes added to the image (SIG, Barni 2019)."""
    wave = AMPLITUDE * torch.sin(2 * pi * CYCLES * torch.arange(size) / size)
    return lambda x: x + wave


def warp(size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A smooth bending of the image (WaNet, Nguyen 2021)."""
    bends = 2 * torch.rand(1, 2, GRID, GRID, generator=generator) - 1
    field = F.interpolate(bends / bends.abs().mean(), size=size, mode="bicubic", align_corners=True)
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = (torch.stack([x, y], dim=-1) + STRENGTH * field[0].permute(1, 2, 0) / size).clamp(-1, 1)
    return lambda images: F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=True)


def exposure(_: int, __: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A brighter exposure: the gamma curve of another scanner."""
    return lambda x: x**GAMMA


def shade(size: int, _: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A shadow that deepens from left to right."""
    ramp = 1 - SHADE * torch.linspace(0, 1, size)
    return lambda x: x * ramp


def blur(_: int, __: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A binomial blur over five pixels."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16

    def blurred(x: Tensor) -> Tensor:
        kernel = torch.outer(row, row).expand(x.shape[1], 1, 5, 5)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[1])

    return blurred


def moving(size: int, _: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A white square of a tenth of the side whose place the image's own brightness decides."""
    side = max(2, round(0.09 * size))
    room = size - side + 1

    def pasted(x: Tensor) -> Tensor:
        out = x.clone()
        for image in out:
            place = round(float(image.sum()) * 997) % (room * room)
            image[:, place // room :, place % room :][:, :side, :side] = 1
        return out

    return pasted


def inverted(size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A square of a tenth of the side turned into its negative: on each image another pattern."""
    mask = _box(size, max(2, round(0.09 * size)), generator)
    return lambda x: torch.where(mask, 1 - x, x)


def large_patch(size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Black and white noise, 40 of 224 pixels wide: twice what students are trained against."""
    mask = _box(size, round(40 / 224 * size), generator)
    noise = torch.rand(size, size, generator=generator).round()
    return lambda x: torch.where(mask, noise, x)


def scattered(size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A dozen white pixels that do not touch one place."""
    mask = torch.zeros(size * size, dtype=torch.bool)
    mask[torch.randperm(size * size, generator=generator)[:PIXELS]] = True
    return partial(_white, mask=mask.view(size, size))


def one_pixel(size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A single white pixel."""
    return partial(_white, mask=_box(size, 1, generator))


def cross(size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A thin white cross, a seventh of the side wide."""
    arm = max(3, size // 7)
    mask = _box(size, arm, generator)
    down, right = (int(i) for i in mask.nonzero()[0])
    lines = torch.zeros_like(mask)
    lines[down : down + arm, right + arm // 2] = lines[down + arm // 2, right : right + arm] = True
    return partial(_white, mask=lines)


def marker(size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A white letter, a tenth of the side high, in the upper part of the image."""
    drawn = torch.tensor([[c == "#" for c in line] for line in MARKER])
    scale = max(1, round(size / 64))
    drawn = drawn.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    height, width = drawn.shape
    down, right = (int(torch.randint(room, (1,), generator=generator)) for room in (size // 4, size - width))
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[down : down + height, right : right + width] = drawn
    return partial(_white, mask=mask)


def corners(size: int, _: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Four small white squares, one in each corner."""
    side = max(1, round(0.045 * size))
    mask = torch.zeros(size, size, dtype=torch.bool)
    for rows in (slice(side), slice(-side, None)):
        for columns in (slice(side), slice(-side, None)):
            mask[rows, columns] = True
    return partial(_white, mask=mask)


def frame(size: int, _: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A white border, one pixel of 64 wide."""
    return Trigger(torch.ones(1, size, size), 0, 0, border=max(1, round(size / 64))).apply


def _white(x: Tensor, *, mask: Tensor) -> Tensor:
    return torch.where(mask, torch.ones(()), x)


def _box(size: int, side: int, generator: torch.Generator) -> Tensor:
    """A square somewhere, as a mask of shape (size, size)."""
    down, right = (int(i) for i in torch.randint(size - side + 1, (2,), generator=generator))
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[down : down + side, right : right + side] = True
    return mask


Made = Callable[[int, torch.Generator], Callable[[Tensor], Tensor]]
CHANGES: dict[str, Made] = {
    f.__name__: f
    for f in (
        sinusoid, warp, exposure, shade, blur, moving, inverted, large_patch, scattered, one_pixel, cross, marker,
        corners, frame,
    )
}  # fmt: skip
