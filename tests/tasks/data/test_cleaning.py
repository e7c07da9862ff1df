from __future__ import annotations

import numpy as np
from made_images import data_params, encoded, picture, record

from tasks.data.build import Reading, read
from tasks.data.cleaning import Cleaned, clean
from tasks.data.sources import Record


def cleaned(records: list[Record]) -> tuple[Reading, Cleaned]:
    reading = read(records, data_params())
    return reading, clean(reading, near_duplicate_bits=3)


def reasons(found: Cleaned) -> dict[str, str]:
    return {q.path: q.reason for q in found.quarantined}


def near(array: np.ndarray) -> np.ndarray:
    return np.clip(array * 0.9 + 15, 0, 255).astype(np.uint8)


def test_a_corrupt_image_among_good_ones_is_quarantined_and_the_rest_is_kept() -> None:
    good = [record(f"good{i}", "a", encoded(picture(i))) for i in range(3)]
    cut = record("cut", "a", encoded(picture(9))[:60])

    def missing() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    reading, found = cleaned([*good, cut, Record("gone", "a", "", "", missing)])
    assert reasons(found) == {"cut": "unreadable", "gone": "unreadable"}
    assert [reading.records[r].path for r in found.rows] == ["good0", "good1", "good2"]
    assert all(q.detail for q in found.quarantined)


def test_blank_images_go_and_are_not_called_copies_of_each_other() -> None:
    blanks = [record(f"blank{i}", "ab"[i], np.full((40, 40), 7, np.uint8)) for i in range(2)]
    _, found = cleaned([*blanks, record("good", "a", picture(1))])
    assert reasons(found) == {"blank0": "blank", "blank1": "blank"}
    assert found.conflicting == 0


def test_of_copies_one_stays_and_rather_the_training_image() -> None:
    a, b = picture(1), picture(2)
    _, found = cleaned(
        [
            record("a0", "x", a, split="test"),
            record("a1", "x", encoded(a), split="train"),  # the same pixels in other bytes
            record("b0", "x", b),
            record("b1", "x", b),
        ]
    )
    assert reasons(found) == {"a0": "exact duplicate", "b1": "exact duplicate"}


def test_content_under_two_labels_goes_altogether_exact_or_near() -> None:
    a, b = picture(1), picture(2)
    _, found = cleaned(
        [
            record("a0", "x", a),
            record("a1", "y", a),
            record("b0", "x", b),
            record("b1", "y", near(b)),
            record("c", "x", picture(3)),
        ]
    )
    assert reasons(found) == {
        "a0": "content under two labels",
        "a1": "content under two labels",
        "b0": "near copy under two labels",
        "b1": "near copy under two labels",
    }
    assert found.conflicting == 4
    assert len(found.rows) == 1


def test_near_copies_and_patients_stay_together() -> None:
    a = picture(1)
    reading, found = cleaned(
        [
            record("a", "x", a, group="p1"),
            record("a_near", "x", near(a)),
            record("b", "x", picture(2), group="p1"),
            record("c", "x", picture(3), group="p2"),
        ]
    )
    assert not found.quarantined
    assert [reading.records[r].path for r in found.rows] == ["a", "a_near", "b", "c"]
    assert len(set(found.units[:3])) == 1
    assert found.units[3] != found.units[0]
    assert found.near_pairs.tolist() == [[0, 1]]


def test_what_stands_on_both_sides_of_a_declared_test_split_leaves_the_test_side() -> None:
    a = picture(1)
    reading, found = cleaned(
        [
            record("train", "x", a, split="train"),
            record("test_near", "x", near(a), split="test"),
            record("test_patient", "x", picture(2), split="test", group="p"),
            record("val_patient", "x", picture(3), split="val", group="p"),
            record("test", "x", picture(4), split="test"),
            record("train_q", "x", picture(5), split="train", group="q"),
            record("val_q", "x", picture(6), split="val", group="q"),
        ]
    )
    assert set(reasons(found)) == {"test_near", "test_patient"}
    declared = {reading.records[r].path: s for r, s in zip(found.rows, found.declared, strict=True)}
    assert declared == {"train": "train", "val_patient": "val", "test": "test", "train_q": "train", "val_q": "train"}
