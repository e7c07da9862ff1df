"""The work of Part II's cells: one draw of the Synthea-like set, or one training on the molecules, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows.study_cells import hardware
from tasks.files import writing
from tasks.privacy.molecules import OWNERS, largest_clusters, read_molecules
from tasks.privacy.study import HIV, SYNTHEA, Optimiser, Owners, Recipe, measure, split
from tasks.privacy.study_search import best_so_far
from tasks.privacy.synthea_like import as_table, draw, read_sources
from tasks.privacy.tabular import Table

VERSION = "1"  # raise it when a change of the code changes figures
BALANCED = 0.5  # the trade-off t of the searches


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


@dataclass(frozen=True)
class SearchCell:
    """The study's optimiser on one cell's data, with clipping and noise up to `most`."""

    on: PrivateCell | MoleculesCell
    most: float
    trials: int

    @property
    def name(self) -> str:
        return f"search up to {self.most:g}, {self.on.name}"


def work(cell: PrivateCell | MoleculesCell | SearchCell) -> dict[str, Any]:
    if isinstance(cell, SearchCell):
        owners, recipe = _prepared(cell.on)
        best = best_so_far(owners, recipe, most=cell.most, trials=cell.trials, trade_off=BALANCED, seed=cell.on.seed)
        return {"best": best, "hardware": hardware()}
    owners, recipe = _prepared(cell)
    found = measure(owners, recipe, seed=cell.seed) | {"hardware": hardware()}
    if isinstance(cell, MoleculesCell):
        parts = zip(found["records"], (owners.train, owners.test, owners.unseen), strict=True)
        found |= {"active": {name: int(part[1].sum()) for name, part in parts}, "unreadable": _unreadable(cell)}
    return found


def _prepared(cell: PrivateCell | MoleculesCell) -> tuple[Owners, Recipe]:
    if isinstance(cell, MoleculesCell):
        return _molecules(cell), HIV
    return drawn_owners(cell.folder, cell.seed)[1], SYNTHEA[cell.optimiser]


def drawn_owners(folder: str, seed: int) -> tuple[Table, Owners]:
    """One draw of the Synthea-like set as a table, and its two owners' records."""
    drawn = draw(read_sources(Path(folder)), seed=seed)
    table = as_table(drawn)
    return table, split(table.x, table.y, drawn["cluster"].to_numpy(), seed=seed)


def divide(molecules: Path, out: Path) -> None:
    """Fingerprints and labels of the three owners as one file, made once: all distances take a minute."""
    read = read_molecules(molecules)
    arrays = {"unreadable": np.array(read.unreadable)}
    for i, rows in enumerate(largest_clusters(read.x)):
        arrays |= {f"x{i}": read.x[rows], f"y{i}": read.y[rows]}
    with writing(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes no dictionary


def _molecules(cell: MoleculesCell) -> Owners:
    with np.load(cell.owners, allow_pickle=False) as kept:
        x = [torch.from_numpy(kept[f"x{i}"].astype(np.float32)) for i in range(OWNERS)]
        y = [torch.from_numpy(kept[f"y{i}"]) for i in range(OWNERS)]
    return Owners(*zip(x, y, strict=True))


def _unreadable(cell: MoleculesCell) -> int:
    with np.load(cell.owners, allow_pickle=False) as kept:
        return int(kept["unreadable"])
