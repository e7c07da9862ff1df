"""Patch-randomised training: random patches of random size, place and content are pasted on images, label kept.

A network trained so learns that no small pattern decides a label. Every drill measures the effect (reports/drill.json).
Frames along the borders are such patterns too: a student that met squares alone may follow a white line around the
image, one pixel wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRIPS = 0.75  # share of a frame's four strips that are there
WIDEST_STRIPE = 3  # pixels; those of the gate's scan are one and two wide


def patch_randomise(x: Tensor, *, probability: float, max_fraction: float, generator: torch.Generator) -> Tensor:
    """Paste one random square on a share of the images.

    Args:
        x: images in [0, 1], shape (n, channels, side, side); not changed.
        probability: share of images that get a patch.
        max_fraction: largest side of a patch as a fraction of the image's side.
        generator: source of all randomness.
    """
    n, _, side, _ = x.shape
    largest = max(2, round(max_fraction * side))

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low

    size = torch.randint(2, largest + 1, (n, 1, 1, 1), generator=generator)
    # Borders and corners are drawn more often than their area: uniform over a wider range, then clamped inside.
    room = (side - size).float()
    top = (draw(-0.25, 1.25).clamp(0, 1) * room).round()
    left = (draw(-0.25, 1.25).clamp(0, 1) * room).round()
    line = torch.arange(side)
    rows = (line >= top) & (line < top + size)  # broadcasts to (n, 1, 1, side)
    columns = (line >= left) & (line < left + size)
    mask = rows.transpose(2, 3) & columns & (draw(0, 1) < probability)
    return torch.where(mask, _contents(x, generator), x)


def frame_randomise(
    x: Tensor, *, probability: float, max_fraction: float, stripes: float, generator: torch.Generator
) -> Tensor:
    """Paste a frame on a share of the images: a strip along each border, or along some, all of one width.

    One width: of the frames that somebody draws, those with four equal sides are the likeliest, and strips of widths
    of their own are seldom equal (X-rays, one clean teacher: the worst simple frame steered .17 of the student's images
    with such strips on a fifth of the images, .05 with one width on two fifths).

    Stripes: students that meet flat and noisy frames alone follow striped ones (X-rays, one student each of four
    teachers: the worst simple frame steered .26, .15, .14 and .18 of the images without stripes, .07, .08, .04 and .07
    where half of the frames were striped).

    Args:
        x: images in [0, 1], shape (n, channels, side, side); not changed.
        probability: share of images that get a frame.
        max_fraction: largest width of the strips as a fraction of the image's side.
        stripes: share of the frames that are striped or chequered; the others have a patch's contents.
        generator: source of all randomness.
    """
    n, _, side, _ = x.shape
    width = torch.randint(1, max(1, round(max_fraction * side)) + 1, (n, 1, 1, 1), generator=generator)
    width = width * (torch.rand(n, 4, 1, 1, generator=generator) < STRIPS)
    top, bottom, left, right = width.split(1, dim=1)
    line = torch.arange(side)
    rows, columns = (line < top) | (line >= side - bottom), (line < left) | (line >= side - right)
    mask = (rows.transpose(2, 3) | columns) & (torch.rand(n, 1, 1, 1, generator=generator) < probability)
    contents = _contents(x, generator)
    if stripes:
        striped = torch.rand(n, 1, 1, 1, generator=generator) < stripes
        contents = torch.where(striped, _stripes(x, generator), contents)
    return torch.where(mask, contents, x)


def _contents(x: Tensor, generator: torch.Generator) -> Tensor:
    """Full-size images to cut patches from: flat, noise at three grains, or another image of the batch."""
    n, channels, side, _ = x.shape
    flat = torch.rand(n, channels, 1, 1, generator=generator)
    flat = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, flat.round(), flat).expand_as(x)
    grains = [noise(n, channels, side, grain, generator) for grain in (1, 2, 4)]
    other = x[torch.randperm(n, generator=generator)].flip(3)
    sources = torch.stack([flat, flat, *grains, other])
    kind = torch.randint(0, len(sources), (n,), generator=generator)
    return sources[kind, torch.arange(n)]


def _stripes(x: Tensor, generator: torch.Generator) -> Tensor:
    """Two shades in turn, along rows, along columns or on a chessboard, each one to WIDEST_STRIPE pixels wide."""
    n, channels, side, _ = x.shape
    grain = torch.randint(1, WIDEST_STRIPE + 1, (n, 1), generator=generator)
    turn = (torch.arange(side) // grain % 2).bool()
    rows, columns = turn.view(n, 1, side, 1), turn.view(n, 1, 1, side)
    kind = torch.randint(0, 3, (n, 1, 1, 1), generator=generator)
    on = ((kind != 1) & rows) ^ ((kind != 0) & columns)
    shades = torch.rand(2, n, channels, 1, 1, generator=generator)
    crisp = torch.rand(n, 1, 1, 1, generator=generator) < 0.5  # black and white, in either order
    black = (torch.rand(n, 1, 1, 1, generator=generator) < 0.5).float()
    return torch.where(on, torch.where(crisp, black, shades[0]), torch.where(crisp, 1 - black, shades[1]))


def noise(n: int, channels: int, side: int, grain: int, generator: torch.Generator) -> Tensor:
    """Binary or uniform noise in squares of `grain` pixels."""
    cells = -(-side // grain)
    noise = torch.rand(n, channels, cells, cells, generator=generator)
    noise = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, noise.round(), noise)
    if grain > 1:
        noise = noise.repeat_interleave(grain, 2).repeat_interleave(grain, 3)
    return noise[:, :, :side, :side]
