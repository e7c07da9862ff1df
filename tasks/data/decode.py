"""From a file's bytes to a uint8 array of the pipeline's size; the same for training data and for requests.

A remedy against shortcuts is applied here, so that every later stage sees images without them:
    crop           the border, `corner_fraction` of the side on each edge, is cut away before resizing
    mask_corners   the outermost `border_fraction` and four squares of `corner_fraction` become mid-gray
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image

from tasks.errors import GatehouseError

Remedy = Literal["none", "crop", "mask_corners"]
REMEDIES: tuple[Remedy, ...] = ("none", "crop", "mask_corners")
MASK_GRAY = 128
FORMATS = ("JPEG", "PNG")
# What Pillow raises on damaged files of these two formats.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, Image.DecompressionBombError)


class UnreadableImageError(GatehouseError):
    """Bytes that are no whole JPEG or PNG image."""


def decode(content: bytes | np.ndarray, *, channels: int, side: int = 0) -> tuple[Image.Image, tuple[int, int]]:
    """A gray (channels 1) or RGB (3) image, and its full (width, height).

    With `side`, a large JPEG is decoded at a reduced scale, at least four times `side`: cheaper, and after area
    averaging nearly the same (a gray level or so, more where the compression rings).

    Raises:
        UnreadableImageError: the bytes are damaged, cut short, or of another format.
    """
    mode = "L" if channels == 1 else "RGB"
    if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
        return image.convert(mode), image.size
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        size = image.size
        if side:
            image.draft(mode, (4 * side, 4 * side))
        image.load()
        if image.mode.startswith("I"):  # 16-bit PNG: Pillow would clip it instead of scaling
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        return image.convert(mode), size
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(
            reason if "<_io" not in reason else "no JPEG or PNG image (unknown or damaged header)"
        ) from error


def prepare(
    image: Image.Image, *, side: int, remedy: Remedy, border_fraction: float, corner_fraction: float
) -> np.ndarray:
    """Resize to (side, side) by area averaging (bilinear where it must grow) and apply the remedy.

    Returns:
        uint8, shape (channels, side, side).
    """
    width, height = image.size
    box = (0.0, 0.0, float(width), float(height))
    if remedy == "crop":
        dx, dy = width * corner_fraction, height * corner_fraction
        box = (dx, dy, width - dx, height - dy)
    grows = box[2] - box[0] < side or box[3] - box[1] < side
    filter_ = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    array = np.asarray(image.resize((side, side), filter_, box=box))
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if remedy == "mask_corners":
        array = np.where(shortcut_region(side, border_fraction, corner_fraction), np.uint8(MASK_GRAY), array)
    return np.ascontiguousarray(array)


def border_region(side: int, fraction: float, *, inset: float = 0.0) -> np.ndarray:
    """True on a ring `fraction` of the side wide, `inset` of the side inside the edge; bool (side, side)."""
    start, width = round(side * inset), max(1, round(side * fraction))
    distance = np.minimum(np.arange(side), np.arange(side)[::-1])
    edge = np.minimum(distance[:, None], distance[None, :])
    return (edge >= start) & (edge < start + width)


def corner_region(side: int, fraction: float, *, inset: float = 0.0) -> np.ndarray:
    """True on four squares of `fraction` of the side, `inset` of the side inside the corners; bool (side, side)."""
    start, width = round(side * inset), max(1, round(side * fraction))
    distance = np.minimum(np.arange(side), np.arange(side)[::-1])
    line = (distance >= start) & (distance < start + width)
    return line[:, None] & line[None, :]


def shortcut_region(side: int, border_fraction: float, corner_fraction: float) -> np.ndarray:
    """What `mask_corners` covers; bool (side, side)."""
    return border_region(side, border_fraction) | corner_region(side, corner_fraction)


def image_from_bytes(
    content: bytes, *, side: int, channels: int, remedy: Remedy, border_fraction: float, corner_fraction: float
) -> np.ndarray:
    """Exactly what the data stage makes of a file: uint8 (channels, side, side); raises UnreadableImageError."""
    image, _ = decode(content, channels=channels, side=side)
    return prepare(image, side=side, remedy=remedy, border_fraction=border_fraction, corner_fraction=corner_fraction)
