from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.splits import split
from tasks.errors import GatehouseError

FRACTIONS = {"val_fraction": 0.15, "test_fraction": 0.2}


def made(n_units: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and units of one to three rows each, classes in turn."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, n_units)
    units = np.repeat(np.arange(n_units), sizes)
    return np.array([f"c{u % classes}" for u in units]), units


@given(st.integers(60, 200), st.integers(2, 3), st.integers(0, 1000))
def test_units_are_whole_every_class_is_everywhere_and_shares_are_kept(n: int, classes: int, seed: int) -> None:
    labels, units = made(n, classes, seed)
    nothing = np.full(len(labels), "")
    result = split(labels, units, nothing, seed=seed, **FRACTIONS)
    assert (result == split(labels, units, nothing, seed=seed, **FRACTIONS)).all()
    for unit in np.unique(units):
        assert len(set(result[units == unit])) == 1
    for label in np.unique(labels):
        own = result[labels == label]
        assert abs((own == "test").sum() - 0.2 * len(own)) <= 2
        assert abs((own == "val").sum() - 0.15 * (own != "test").sum()) <= 2


def test_another_seed_splits_otherwise() -> None:
    labels, units = made(100, 2, 0)
    nothing = np.full(len(labels), "")
    a, b = (split(labels, units, nothing, seed=s, **FRACTIONS) for s in (0, 1))
    assert (a != b).any()


def test_a_declared_test_split_stays_and_a_small_validation_split_is_filled_up() -> None:
    labels, units = np.array(["a", "b"] * 500), np.arange(1000)
    declared = np.array(["train"] * 784 + ["val"] * 16 + ["test"] * 200)
    result = split(labels, units, declared, seed=0, **FRACTIONS)
    assert ((result == "test") == (declared == "test")).all()
    assert (result[declared == "val"] == "val").all()
    assert (result == "val").sum() == pytest.approx(0.15 * 800, abs=2)


def test_a_declared_validation_split_of_a_fair_size_stays_as_it_is() -> None:
    labels, units = np.array(["a", "b"] * 500), np.arange(1000)
    declared = np.array(["train"] * 700 + ["val"] * 100 + ["test"] * 200)
    assert (split(labels, units, declared, seed=0, **FRACTIONS) == declared).all()


def test_a_unit_with_two_labels_moves_as_one() -> None:
    labels = np.array(["a", "b"] * 60)
    units = np.repeat(np.arange(60), 2)
    result = split(labels, units, np.full(120, ""), seed=3, **FRACTIONS)
    assert (result[::2] == result[1::2]).all()
    assert (result == "test").sum() == pytest.approx(24, abs=4)


def test_a_class_in_one_split_only_is_one_sentence() -> None:
    labels = np.array(["a"] * 40 + ["b"] * 10)
    declared = np.array(["train"] * 30 + ["test"] * 20)
    with pytest.raises(
        GatehouseError, match=r"Class 'b' \(10 images, 10 patients.*is in test only, not in train and val"
    ):
        split(labels, np.arange(50), declared, seed=0, **FRACTIONS)
    one_patient = np.r_[np.arange(40), np.full(10, 99)]
    with pytest.raises(GatehouseError, match=r"Class 'b' \(10 images, 1 patients.*is in train only"):
        split(labels, one_patient, np.full(50, ""), seed=0, **FRACTIONS)
