"""Train, validation and test: whole groups, shares kept a class, what the source declares honoured."""

from __future__ import annotations

import numpy as np

from tasks.data.dataset import SPLITS
from tasks.errors import GatehouseError


def split(
    labels: np.ndarray,
    units: np.ndarray,
    declared: np.ndarray,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> np.ndarray:
    """A split for every row, str (n,), the same for the same arguments.

    A unit (patient, or images that are near copies) is never divided. A declared test split stays as it is; without
    one, `test_fraction` of the rest becomes test. A declared validation split stays, and is filled up from train to
    `val_fraction` of train and validation where it holds less than half of that (Kaggle's chest_xray has 16 images).

    Args:
        labels: str (n,). units: int (n,). declared: str (n,), "" or train, val, test; equal within a unit.

    Raises:
        GatehouseError: a class cannot be in all three splits.
    """
    rng = np.random.default_rng(seed)
    result = np.where(declared == "", "train", declared)
    if not (declared == "test").any():
        _move(result, labels, units, result == "train", "test", test_fraction, rng)
    rest = result != "test"
    have, wanted = int((result == "val").sum()), val_fraction * int(rest.sum())
    if have < wanted / 2:
        _move(result, labels, units, result == "train", "val", (wanted - have) / max(1, rest.sum() - have), rng)
    for label in np.unique(labels).tolist():
        own = labels == label
        missing = [s for s in SPLITS if not (result[own] == s).any()]
        if missing:
            where = ", ".join(sorted(set(result[own].tolist())))
            raise GatehouseError(
                f"Class {label!r} ({int(own.sum())} images, {len(np.unique(units[own]))} patients or unrelated images) "
                f"is in {where} only, not in {' and '.join(missing)}; add images of it or leave the class out."
            )
    return result


def _move(
    result: np.ndarray,
    labels: np.ndarray,
    units: np.ndarray,
    pool: np.ndarray,
    to: str,
    fraction: float,
    rng: np.random.Generator,
) -> None:
    """Move about `fraction` of each class in `pool` to the split `to`, in place, unit by unit.

    At least one unit of each class moves and one stays, where a class has two.
    """
    for label in np.unique(labels[pool]):
        rows = np.flatnonzero(pool & (labels == label) & (result != to))
        names, sizes = np.unique(units[rows], return_counts=True)
        wanted = fraction * int((pool & (labels == label)).sum()) - int(
            (pool & (labels == label) & (result == to)).sum()
        )
        order = rng.permutation(len(names))
        moved, left = 0, len(names)
        for i in order:
            # Closer to the wanted number with this unit than without it?
            if left == 1 or (moved and moved + sizes[i] / 2 > wanted):
                break
            result[pool & (units == names[i])] = to
            moved, left = moved + sizes[i], left - 1
