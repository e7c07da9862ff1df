"""From the bytes of a file that somebody sent to an image as the model takes it, without trusting a byte of it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tasks.data.decode import FORMATS, UnreadableImageError
from tasks.serving.errors import RequestError
from tasks.serving.protocol import Shape

MAX_PIXELS = 16_777_216  # of one image: 4 096 × 4 096, four times a chest radiograph as published
MAX_REQUEST_PIXELS = 4 * MAX_PIXELS  # of all images of a request: a small file can hold a large image
# What Pillow's readers raise on files made to break them.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, OverflowError, TypeError, LookupError, struct.error, zlib.error)
Prepare = Callable[[bytes], np.ndarray]


def decode(files: list[bytes], shape: Shape, prepare: Prepare) -> np.ndarray:
    """Float32 images `shape` in [0, 1] from PNG and JPEG files.

    Sizes are read from the headers of all files, and refused where they are too large, before a pixel is decoded.

    Args:
        prepare: what the data stage makes of a file: uint8 (channels, side, side).
    """
    pixels = [_pixels(data, row) for row, data in enumerate(files)]
    if sum(pixels) > MAX_REQUEST_PIXELS:
        raise RequestError(f"The images have {sum(pixels)} pixels together; at most {MAX_REQUEST_PIXELS} are decoded.")
    out = np.empty((len(files), shape.channels, shape.side, shape.side), np.float32)
    for row, data in enumerate(files):
        try:
            out[row] = prepare(data) / np.float32(255)
        except (UnreadableImageError, *BROKEN):
            raise RequestError(f"Row {row}: the image is truncated or damaged.") from None
    return out


def _pixels(data: bytes, row: int) -> int:
    """Width times height, from the header alone."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)  # Pillow refuses from there on and does not say the size
    except BROKEN:  # an unknown format is an OSError
        raise RequestError(f"Row {row}: the file is no {' or '.join(FORMATS)} image.") from None
    if pixels > MAX_PIXELS:
        raise RequestError(f"Row {row}: the image has over {MAX_PIXELS} pixels; so many are not decoded.")
    return pixels
