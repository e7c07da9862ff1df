from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made_images import picture

from tasks.data.build import read
from tasks.data.duplicates import close_hashes, components, confirmed, exact_groups, near_pairs, near_pairs_between

from made_images import data_params, record  # isort: skip


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(0, 16), st.integers(0, 2**16))
def test_close_hashes_are_those_that_counting_bits_finds(hashes: list[int], bits: int, flips: int) -> None:
    a = np.array([*hashes, *(h ^ flips for h in hashes)], dtype=np.uint64)
    expected = {(i, j) for i in range(len(a)) for j in range(len(a)) if (int(a[i]) ^ int(a[j])).bit_count() <= bits}
    assert {tuple(p) for p in close_hashes(a, a, bits)} == expected


def test_many_hashes_are_compared_in_blocks() -> None:
    a = np.random.default_rng(0).integers(0, 2**63, 2500, dtype=np.uint64)
    a[2400] = a[10] ^ np.uint64(0b101)
    off_diagonal = [tuple(p) for p in close_hashes(a, a, 3) if p[0] != p[1]]
    assert off_diagonal == [(10, 2400), (2400, 10)]


@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_exact_groups_partition_what_occurs_twice(digests: list[str]) -> None:
    groups = exact_groups(np.array(digests, dtype=str)) if digests else []
    found = sorted(i for rows in groups for i in rows)
    assert found == [i for i, d in enumerate(digests) if digests.count(d) > 1]
    assert all(len({digests[i] for i in rows}) == 1 for rows in groups)
    assert len(groups) == len({d for d in digests if digests.count(d) > 1})


def test_a_brighter_copy_is_a_near_copy_and_another_picture_is_not() -> None:
    array = picture(1, 64)
    brighter = np.clip(array * 0.9 + 15, 0, 255).astype(np.uint8)
    records = [record(str(i), "x", a) for i, a in enumerate((picture(2, 64), array, picture(3, 64), brighter))]
    reading = read(records, data_params())
    images = reading.images["none"]
    assert near_pairs(reading.phash, images, 3).tolist() == [[1, 3]]
    between = near_pairs_between(reading.phash[:2], images[:2], reading.phash[2:], images[2:], 3)
    assert between.tolist() == [[1, 1]]


def test_equal_hashes_alone_do_not_make_near_copies() -> None:
    images = np.stack([picture(i, 32)[None] for i in range(2)])
    assert confirmed(images, images, np.array([[0, 1], [1, 1]])).tolist() == [False, True]
    assert len(near_pairs(np.array([5, 5], np.uint64), images, 0)) == 0


@given(st.integers(1, 25), st.data())
def test_components_join_pairs_and_groups_and_nothing_else(n: int, data: st.DataObject) -> None:
    row = st.integers(0, n - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(row, row), max_size=10)), dtype=np.int64).reshape(-1, 2)
    groups = np.array(data.draw(st.lists(st.sampled_from(["", "a", "b"]), min_size=n, max_size=n)))
    units = components(n, pairs, groups)
    joined = np.eye(n, dtype=bool)
    joined[pairs[:, 0], pairs[:, 1]] = joined[pairs[:, 1], pairs[:, 0]] = True
    joined |= (groups[:, None] == groups[None, :]) & (groups[:, None] != "")
    for _ in range(n):
        joined = joined | (joined.astype(int) @ joined.astype(int) > 0)
    assert ((units[:, None] == units[None, :]) == joined).all()
