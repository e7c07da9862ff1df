"""The work of Part II's cells: one draw of the set, measured under one optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.study_cells import hardware
from tasks.privacy.study import SYNTHEA, Optimiser, measure, split
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


def work(cell: PrivateCell) -> dict[str, Any]:
    drawn = draw(read_sources(Path(cell.folder)), seed=cell.seed)
    table = as_table(drawn)
    owners = split(table.x, table.y, drawn["cluster"].to_numpy(), seed=cell.seed)
    return measure(owners, SYNTHEA[cell.optimiser], seed=cell.seed) | {"hardware": hardware()}
