"""Molecules as the study prepares them (6.2.1): fingerprints by RDKit, and three owners by Butina's clustering.

Needs the extra `molecules`. Fingerprints are ECFP4 (Rogers 2010): Morgan's of radius 2, folded to `BITS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tasks.errors import GatehouseError

BITS, RADIUS = 1024, 2
CUTOFF = 0.785  # Tanimoto distance: the three largest clusters are then as large as the study's, within 6 %
OWNERS = 3
BLOCK = 1024  # molecules whose distances to all others are held at once


@dataclass(frozen=True)
class Molecules:
    """Fingerprints uint8 (n, BITS) of 0 and 1, labels int64 (n,), 1 for active, and how many could not be read."""

    x: np.ndarray
    y: np.ndarray
    unreadable: int


def read_molecules(path: Path) -> Molecules:
    """A CSV file with columns `smiles` and `HIV_active`.

    Raises:
        GatehouseError: RDKit is missing, no such file or columns, or no molecule that can be read.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdFingerprintGenerator
    except ImportError:
        raise GatehouseError("Molecules need RDKit; install the extra: pip install 'gatehouse[molecules]'.") from None
    if not path.exists():
        raise GatehouseError(f"{path} does not exist; point at a folder that holds hiv/HIV.csv.")
    frame = pd.read_csv(path)
    if missing := [c for c in ("smiles", "HIV_active") if c not in frame.columns]:
        raise GatehouseError(f"{path} has no column {', '.join(missing)}.")
    rdBase.DisableLog("rdApp.*")  # what it cannot read is counted here
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    read = [Chem.MolFromSmiles(s) for s in frame["smiles"].astype(str)]
    kept = [i for i, molecule in enumerate(read) if molecule is not None]
    if not kept:
        raise GatehouseError(f"{path} holds no molecule that RDKit can read.")
    x = np.array([generator.GetFingerprintAsNumPy(read[i]) for i in kept], np.uint8)
    return Molecules(x, frame["HIV_active"].to_numpy(np.int64)[kept], len(read) - len(kept))


def largest_clusters(x: np.ndarray, *, clusters: int = OWNERS, cutoff: float = CUTOFF) -> list[np.ndarray]:
    """Row numbers of the largest clusters of Butina (1999), largest first: the first steps of his algorithm.

    Each cluster is the molecule with the most neighbours among those that are left, and these neighbours. All
    distances of 40 000 molecules do not fit into memory, but which pairs are neighbours does, at a bit a pair.

    Args:
        x: 0 and 1, shape (n, bits).
        cutoff: largest Tanimoto distance of neighbours, in (0, 1).
    """
    n = len(x)
    neighbours = np.zeros((n, -(-n // 8)), np.uint8)
    own = torch.from_numpy(x.astype(np.float32))
    sizes = own.sum(1)
    for i in range(0, n, BLOCK):
        shared = own[i : i + BLOCK] @ own.T
        similarity = shared / (sizes[i : i + BLOCK, None] + sizes - shared)
        neighbours[i : i + BLOCK] = np.packbits((similarity >= 1 - cutoff).numpy(), axis=1)
    left, found = np.full(n, True), []
    for _ in range(min(clusters, n)):
        among = neighbours & np.packbits(left)
        centre = int(np.where(left, np.bitwise_count(among).sum(1), 0).argmax())
        members = np.flatnonzero(np.unpackbits(among[centre], count=n))
        found.append(members)
        left[members] = False
    return found
