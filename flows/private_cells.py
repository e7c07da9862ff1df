"""The work of Part II's cells: one draw of the Synthea-like set, or one training on the molecules, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows.study_cells import hardware
from tasks.files import writing
from tasks.privacy.molecules import largest_clusters, read_molecules
from tasks.privacy.study import HIV, SYNTHEA, Optimiser, Owners, measure, split
from tasks.privacy.synthea_like import as_table, draw, read_sources

VERSION = "1"  # raise it when a change of the code changes figures


@dataclass(frozen=True)
class PrivateCell:
    """One draw of the set under one optimiser. `data` is the digest of the sample's patients."""

    data: str
    folder: str
    optimiser: Optimiser
    seed: int

    @property
    def name(self) -> str:
        return f"{self.optimiser}, seed {self.seed}"


@dataclass(frozen=True)
class MoleculesCell:
    """One seed's trainings on the molecules. `data` is the digest of their file, `owners` where `divide` put them."""

    data: str
    owners: str
    seed: int
    optimiser: Optimiser = "sgd"

    @property
    def name(self) -> str:
        return f"molecules, seed {self.seed}"


def work(cell: PrivateCell | MoleculesCell) -> dict[str, Any]:
    found = _molecules(cell) if isinstance(cell, MoleculesCell) else _synthea(cell)
    return found | {"hardware": hardware()}


def _synthea(cell: PrivateCell) -> dict[str, Any]:
    drawn = draw(read_sources(Path(cell.folder)), seed=cell.seed)
    table = as_table(drawn)
    owners = split(table.x, table.y, drawn["cluster"].to_numpy(), seed=cell.seed)
    return measure(owners, SYNTHEA[cell.optimiser], seed=cell.seed)


def divide(molecules: Path, out: Path) -> None:
    """Fingerprints and labels of the three owners as one file, made once: all distances take a minute."""
    read = read_molecules(molecules)
    arrays = {"unreadable": np.array(read.unreadable)}
    for i, rows in enumerate(largest_clusters(read.x)):
        arrays |= {f"x{i}": read.x[rows], f"y{i}": read.y[rows]}
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes no dictionary


def _molecules(cell: MoleculesCell) -> dict[str, Any]:
    with np.load(cell.owners, allow_pickle=False) as kept:
        train, test, unseen = (
            (torch.from_numpy(kept[f"x{i}"].astype(np.float32)), torch.from_numpy(kept[f"y{i}"])) for i in range(3)
        )
        unreadable = int(kept["unreadable"])
    found = measure(Owners(train, test, unseen), HIV, seed=cell.seed)
    active = {name: int(part[1].sum()) for name, part in zip(found["records"], (train, test, unseen), strict=True)}
    return found | {"active": active, "unreadable": unreadable}
