"""Molecules: the clusters are RDKit's own, and what cannot be read is one clear sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.errors import GatehouseError
from tasks.privacy.molecules import BITS, largest_clusters, read_molecules
from tasks.privacy.study import pooled_auc

rdkit = pytest.importorskip("rdkit", reason="needs the extra `molecules`")


def planted(seed: int) -> np.ndarray:
    """Three families of 40, 25 and 15 fingerprints, each around a centre of its own, and 20 that belong nowhere."""
    rng = np.random.default_rng(seed)
    out = []
    for count in (40, 25, 15):
        centre = rng.random(BITS) < 0.06
        flips = rng.random((count, BITS)) < 0.01
        flips[0] = False
        out.append(centre ^ flips)
    return np.concatenate([*out, rng.random((20, BITS)) < 0.05]).astype(np.uint8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_largest_clusters_are_those_of_rdkit(seed: int) -> None:
    from rdkit.ML.Cluster import Butina

    x = planted(seed)[np.random.default_rng(seed).permutation(100)]
    both = x.astype(int) @ x.T
    distance = 1 - both / (x.sum(1)[:, None] + x.sum(1) - both)
    below = [distance[i, j] for i in range(len(x)) for j in range(i)]
    theirs = Butina.ClusterData(below, len(x), 0.6, isDistData=True, reordering=True)
    ours = largest_clusters(x, clusters=3, cutoff=0.6)
    assert [sorted(c) for c in theirs[:3]] == [c.tolist() for c in ours]
    assert [len(c) for c in ours] == [40, 25, 15]


def test_what_is_no_set_of_molecules_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match="does not exist"):
        read_molecules(tmp_path / "HIV.csv")
    file = tmp_path / "HIV.csv"
    file.write_text("smiles,activity\nCCO,CI\n")
    with pytest.raises(GatehouseError, match="no column HIV_active"):
        read_molecules(file)
    file.write_text("smiles,HIV_active\nno molecule,0\n")
    with pytest.raises(GatehouseError, match="no molecule that RDKit can read"):
        read_molecules(file)
    file.write_text("smiles,HIV_active\nno molecule,0\nCCO,1\n")
    read = read_molecules(file)
    assert (read.x.shape, read.y.tolist(), read.unreadable) == ((1, BITS), [1], 1)


def test_pooled_auc_is_that_of_keras_and_says_little_where_a_class_is_rare() -> None:
    """The pairs counted one by one; and .97 for a model that has learnt nothing but the classes' shares."""
    rng = np.random.default_rng(0)
    labels = (rng.random(60) < 0.2).astype(int)
    p = rng.random(60).round(1)
    probability = np.stack([1 - p, p], 1)
    true, false = (probability[np.arange(60), own] for own in (labels, 1 - labels))
    pairs = (true[:, None] > false).mean() + 0.5 * (true[:, None] == false).mean()
    assert pooled_auc(probability, labels) == pytest.approx(pairs)
    rare = np.arange(1000) < 30
    assert pooled_auc(np.tile([0.97, 0.03], (1000, 1)), rare.astype(int)) == pytest.approx(0.97, abs=1e-3)
