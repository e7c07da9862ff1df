"""Images that are the same: exactly, by digest, or nearly, by perceptual hash confirmed on the pixels."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BLOCK = 1024
# Chest X-rays resemble each other: of pairs with equal or close hashes, copies correlate at .98 and above on the real
# sets, different patients' images below .94.
MIN_CORRELATION = 0.97


def exact_groups(digests: np.ndarray) -> list[np.ndarray]:
    """Rows that share a digest, one sorted array for each digest that occurs more than once."""
    order = np.argsort(digests, kind="stable")
    values = digests[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    return [np.sort(rows) for rows in np.split(order, starts[1:]) if len(rows) > 1]


def close_hashes(a: np.ndarray, b: np.ndarray, bits: int) -> np.ndarray:
    """All pairs (i, j) with Hamming distance of a[i] and b[j] at most `bits`; int64 (k, 2).

    Every pair is compared, in blocks of XOR and population count: 15 000 × 15 000 hashes take about two seconds, and
    unlike a bucketed index nothing is missed at any number of bits.

    Args:
        a, b: uint64, shapes (n,) and (m,).
    """
    found = [np.empty((0, 2), np.int64)]
    for i in range(0, len(a), BLOCK):
        near = np.bitwise_count(a[i : i + BLOCK, None] ^ b[None, :]) <= bits
        pairs = np.argwhere(near)
        pairs[:, 0] += i
        found.append(pairs)
    return np.concatenate(found)


def near_pairs(phash: np.ndarray, images: np.ndarray, bits: int) -> np.ndarray:
    """Pairs (i, j), i < j, of near duplicates within one set; int64 (k, 2). See `confirmed`."""
    pairs = close_hashes(phash, phash, bits)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return pairs[confirmed(images, images, pairs)]


def near_pairs_between(
    phash: np.ndarray, images: np.ndarray, other_phash: np.ndarray, other_images: np.ndarray, bits: int
) -> np.ndarray:
    """Pairs (i of the first set, j of the other) of near duplicates; int64 (k, 2)."""
    pairs = close_hashes(phash, other_phash, bits)
    return pairs[confirmed(images, other_images, pairs)]


def confirmed(a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """True where the two images' pixels correlate at least MIN_CORRELATION; bool (k,).

    Args:
        a, b: uint8, shape (n, channels, side, side).
    """
    keep = np.empty(len(pairs), dtype=bool)
    for i in range(0, len(pairs), BLOCK):
        part = pairs[i : i + BLOCK]
        keep[i : i + BLOCK] = (_standard(a[part[:, 0]]) * _standard(b[part[:, 1]])).mean(1) >= MIN_CORRELATION
    return keep


def _standard(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / (flat.std(1, keepdims=True) + 1e-6)


def components(n: int, pairs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A number for each row, equal for rows that must stay in one split; int (n,).

    Rows are joined by `pairs` (k, 2) and by equal non-empty `groups`, str (n,).
    """
    joined = [pairs.reshape(-1, 2)]
    named = np.flatnonzero(groups != "")
    order = named[np.argsort(groups[named], kind="stable")]
    same = groups[order[1:]] == groups[order[:-1]]
    joined.append(np.stack([order[:-1][same], order[1:][same]], axis=1))
    edges = np.concatenate(joined).astype(np.int64)
    graph = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]
