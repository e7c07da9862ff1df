from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import encoded, picture
from PIL import Image

from tasks.data.decode import (
    MASK_GRAY,
    UnreadableImageError,
    border_region,
    corner_region,
    decode,
    image_from_bytes,
    prepare,
    shortcut_region,
)

FRACTIONS = {"border_fraction": 0.047, "corner_fraction": 0.125}


def test_resizing_is_area_averaging() -> None:
    array = picture(0, 64)
    out = prepare(Image.fromarray(array), side=16, remedy="none", **FRACTIONS)
    expected = array.reshape(16, 4, 16, 4).astype(float).mean(axis=(1, 3))
    assert out.shape == (1, 16, 16)
    assert abs(out[0] - expected).max() <= 1  # Pillow rounds after each of its two passes


def test_a_crop_keeps_the_middle_only() -> None:
    array = np.zeros((64, 64), np.uint8)
    array[8:56, 8:56] = 200
    out = prepare(Image.fromarray(array), side=16, remedy="crop", **FRACTIONS)
    assert (out == 200).all()


def test_a_mask_covers_border_and_corners_and_nothing_else() -> None:
    array = picture(0, 64)
    out = prepare(Image.fromarray(array), side=64, remedy="mask_corners", **FRACTIONS)[0]
    masked = shortcut_region(64, 0.047, 0.125)
    assert (out[masked] == MASK_GRAY).all()
    assert (out[~masked] == array[~masked]).all()
    assert masked[:3].all()
    assert masked[3:8, 3:8].all()
    assert not masked[8:56, 3:61].any()


def test_a_reduced_decode_hardly_differs_from_a_full_one() -> None:
    content = encoded(picture(5, 900), "JPEG", quality=95)
    reduced, size = decode(content, channels=1, side=32)
    full, _ = decode(content, channels=1)
    assert size == full.size == (900, 900)
    assert reduced.size[0] < 900
    a, b = (prepare(i, side=32, remedy="none", **FRACTIONS).astype(int) for i in (reduced, full))
    assert abs(a - b).mean() < 1.5  # gray levels
    assert abs(a - b).max() <= 10


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_the_bytes_the_answer_is_an_image_or_one_kind_of_error(data: st.DataObject) -> None:
    whole = encoded(picture(1), data.draw(st.sampled_from(["PNG", "JPEG"])))
    kind = data.draw(st.sampled_from(["cut", "flip", "noise"]))
    if kind == "cut":
        content = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "flip":
        at = data.draw(st.integers(0, len(whole) - 1))
        content = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    else:
        content = data.draw(st.binary(max_size=200))
    try:
        image, _ = decode(content, channels=1, side=16)
    except UnreadableImageError as error:
        reason: str | None = str(error)
    else:
        reason = None
        assert image.mode == "L"
    assert reason is None or (reason and "0x" not in reason)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_unreadable(kind: str) -> None:
    whole = encoded(picture(1, 200), kind)
    with pytest.raises(UnreadableImageError):
        decode(whole[: len(whole) // 2], channels=1)


def test_other_formats_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(UnreadableImageError, match="no JPEG or PNG"):
        decode(encoded(picture(1), "BMP"), channels=1)


def test_a_request_is_prepared_exactly_as_training_data() -> None:
    content = encoded(picture(3, 80), "JPEG")
    image, _ = decode(content, channels=3, side=32)
    for remedy in ("none", "crop", "mask_corners"):
        expected = prepare(image, side=32, remedy=remedy, **FRACTIONS)  # type: ignore[arg-type]
        got = image_from_bytes(content, side=32, channels=3, remedy=remedy, **FRACTIONS)  # type: ignore[arg-type]
        assert (got == expected).all()


@given(st.integers(16, 128), st.floats(0.01, 0.24), st.floats(0.01, 0.3))
def test_regions_are_symmetric_and_leave_a_middle(side: int, border: float, corner: float) -> None:
    for region in (
        border_region(side, border),
        corner_region(side, corner),
        corner_region(side, corner / 2, inset=corner / 2),
    ):
        assert region.any()
        assert (region == region[::-1]).all()
        assert (region == region.T).all()
    ring = border_region(side, border)
    width = max(1, round(side * border))
    assert ring.sum() == side**2 - (side - 2 * width) ** 2
    assert corner_region(side, corner).sum() == 4 * max(1, round(side * corner)) ** 2
