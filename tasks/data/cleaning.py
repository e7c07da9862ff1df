"""What is dropped before anything is learnt from it, each record with its reason; the rest, and what stays together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.data.build import Quarantined, Reading
from tasks.data.duplicates import components, exact_groups, near_pairs


@dataclass(frozen=True)
class Cleaned:
    """Rows of a reading that are kept, and what was found on the way.

    `units` numbers, for each kept row, the patient or set of near copies that must stay in one split; `declared` is
    the split that the source declares, "" for none.
    """

    rows: np.ndarray  # int64 (k,), indices into the reading, rising
    units: np.ndarray  # int (k,)
    declared: np.ndarray  # str (k,)
    quarantined: tuple[Quarantined, ...]
    near_pairs: np.ndarray  # int64 (p, 2), indices into the reading, both ends kept
    conflicting: int  # images whose content, exactly or nearly, stands under two labels


def clean(reading: Reading, *, near_duplicate_bits: int) -> Cleaned:
    """Drop what is unreadable, blank, ambiguous, copied, or shared between declared training and test data.

    Of copies under one label the first stays, a declared training image before a test image. Content under two labels
    goes altogether: nothing says which label is right. Where a patient or a near copy is on both sides of a declared
    test split, the test image goes. Near copies within a split stay, together.
    """
    labels = reading.labels
    declared = np.array([r.split for r in reading.records], dtype="<U5")
    groups = np.array([r.group for r in reading.records], dtype=object).astype(str)
    quarantined = list(reading.unreadable)
    keep = np.ones(len(labels), dtype=bool)

    def drop(row: int, reason: str, detail: str) -> None:
        record = reading.records[row]
        quarantined.append(Quarantined(record.path, record.label, reason, detail))
        keep[row] = False

    for row in np.flatnonzero(reading.blank).tolist():
        drop(row, "blank", f"gray levels spread by {reading.sd[row]:.2f} of 255 only")

    conflicting = 0
    content = np.where(reading.blank, [f"blank {i}" for i in range(len(labels))], reading.content)
    for rows in exact_groups(content):
        if len(set(labels[rows])) > 1:
            conflicting += len(rows)
            for row in rows:
                drop(
                    row,
                    "content under two labels",
                    f"the same picture stands under {', '.join(sorted(set(labels[rows])))}",
                )
            continue
        first = min(rows, key=lambda r: (declared[r] == "test", r))
        for row in rows[rows != first]:
            drop(row, "exact duplicate", f"the same picture as {reading.records[first].path}")

    kept = np.flatnonzero(keep)
    any_images = next(iter(reading.images.values()))
    pairs = kept[near_pairs(reading.phash[kept], any_images[kept], near_duplicate_bits)]
    for i, j in pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]:
        for row, other in ((i, j), (j, i)):
            if keep[row]:
                conflicting += 1
                drop(row, "near copy under two labels", f"nearly the same picture as {reading.records[other].path}")
    pairs = pairs[keep[pairs].all(axis=1)]

    units = components(len(labels), pairs, groups)
    trained_on = np.unique(units[keep & (declared != "test") & (declared != "")])
    for row in np.flatnonzero(keep & (declared == "test") & np.isin(units, trained_on)).tolist():
        drop(row, "in the declared training and test data", "its patient or a near copy of it is training data")
    # A validation image whose patient is in the training data is training data.
    learnt = np.unique(units[keep & (declared == "train")])
    declared = np.where((declared == "val") & np.isin(units, learnt), "train", declared)
    rows = np.flatnonzero(keep)
    return Cleaned(rows, units[rows], declared[rows], tuple(quarantined), pairs[keep[pairs].all(axis=1)], conflicting)
