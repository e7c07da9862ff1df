"""The study's Part II measured again: Tables 11 and 13 on the Synthea-like set, 12 and 14 on HIV (reports/study).

`python -m flows.private_study --data FOLDER`: FOLDER holds `synthea/`, as its sample unpacks, and `hiv/HIV.csv`; what
is not there is left out. Cells are kept in .gatehouse/private: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from flows import private_page
from flows.cells import Done, run_cells
from flows.measuring import REPORTS, keep
from flows.private_cells import VERSION, MoleculesCell, PrivateCell, SearchCell, divide, work
from flows.stage import limit_threads
from flows.terminal import bar, mendable, terminal
from tasks.errors import GatehouseError
from tasks.files import sha256_file
from tasks.privacy.study import HIV, SYNTHEA, Optimiser, Recipe
from tasks.privacy.synthea_like import read_sources
from tasks.stats import over_seeds

STORE = Path(".gatehouse/private")
SEEDS = 3
MOST, TRIALS = (10.0, 20.0, 100.0), 100  # of the searches: upper ends of clipping and noise, and trials
# Published: Tables 11 and 12 (training, testing and unseen AUC, leakage), 13 and 14 (loss of AUC, remaining risk) by t.
MEASURES = ("training_auc", "testing_auc", "unseen_auc", "leakage")
BASE = {
    "sgd": dict(zip(MEASURES, (0.990, 0.984, 0.986, 0.622), strict=True)),
    "adam": dict(zip(MEASURES, (0.998, 0.992, 0.995, 0.639), strict=True)),
}
BASE_HIV = {"sgd": dict(zip(MEASURES, (0.978, 0.966, 0.987, 0.767), strict=True))}
COMPARED = ("utility_loss", "privacy_risk")
CHOICES = {
    "sgd": {0.25: (0.046, 0.496), 0.5: (0.037, 0.497), 0.75: (0.002, 0.518)},
    "adam": {0.25: (0.003, 0.508), 0.5: (0.002, 0.504), 0.75: (0.0, 0.51)},
}
CHOICES_HIV = {"sgd": {0.25: (0.012, 0.488), 0.5: (0.004, 0.494), 0.75: (0.001, 0.490)}}


@dataclass(frozen=True)
class Part:
    """One data set's two tables: of base networks, and of choices."""

    tables: tuple[str, str]
    data: str
    recipes: Mapping[Optimiser, Recipe]
    base: Mapping[str, Mapping[str, float]]
    choices: Mapping[str, Mapping[Any, tuple[float, float]]]


ON_SYNTHEA = Part(
    ("table11", "table13"),
    "a Synthea-like set drawn anew (tasks/privacy/synthea_like.py), not the study's own draw",
    SYNTHEA, BASE, CHOICES,
)  # fmt: skip
ON_HIV = Part(
    ("table12", "table14"),
    "AIDS Antiviral Screen, ECFP4 fingerprints of 1 024 bits, the three largest Butina clusters at a Tanimoto distance "
    "of .785; utility is the AUC pooled over both columns of the answers, as Keras computes it",
    {"sgd": HIV}, BASE_HIV, CHOICES_HIV,
)  # fmt: skip


def private_study(folder: Path, *, seeds: int, workers: int, reports: Path, console: Console) -> None:
    """Measure what is missing and write the tables; GatehouseError where a cell failed or no data set is there."""
    numbers = [7 + 1000 * i for i in range(seeds)]
    planned: list[tuple[Part, list[Any]]] = []
    if (folder / "synthea").exists():
        sample = folder / "synthea"
        read_sources(sample)
        digest = sha256_file(sample / "patients.csv")
        planned.append((ON_SYNTHEA, [PrivateCell(digest, str(sample), o, n) for o in SYNTHEA for n in numbers]))
    if (molecules := folder / "hiv/HIV.csv").exists():
        digest = sha256_file(molecules)
        owners = STORE.resolve() / f"owners-{digest[:16]}.npz"
        if not owners.exists():
            console.print("[bold]private_study[/bold]  clustering the molecules", highlight=False)
            divide(molecules, owners)
        planned.append((ON_HIV, [MoleculesCell(digest, str(owners), n) for n in numbers]))
    if not planned:
        raise GatehouseError(f"{folder} holds neither synthea/ nor hiv/HIV.csv; point --data at a folder that does.")

    def progress(done: int, total: int, name: str) -> None:
        console.print(f"[bold]private_study[/bold]  {bar(done, total)} {name}", highlight=False)

    failed: list[Done] = []
    for part, cells in planned:
        outcomes = run_cells(cells, work, folder=STORE / "cells", workers=workers, version=VERSION, progress=progress)
        failed += [d for d in outcomes if not d.result]
        if done := [d for d in outcomes if d.result]:
            for name, table in zip(part.tables, (_base(part, done), _choices(part, done)), strict=True):
                keep(reports / f"{name}.json", table, private_page.write_page)
    first = [cell for _, cells in planned for cell in cells if cell.seed == numbers[0]]
    searches = [SearchCell(cell, most, TRIALS) for cell in first for most in MOST]
    outcomes = run_cells(searches, work, folder=STORE / "cells", workers=workers, version=VERSION, progress=progress)
    failed += [d for d in outcomes if not d.result]
    if done := [d for d in outcomes if d.result]:
        keep(reports / "search_progress.json", _progress(done), private_page.write_page)
    if failed:
        raise GatehouseError(f"{len(failed)} cells were not measured: {failed[0].cell.name}: {failed[0].error}")


def _table(title: str, part: Part, rows: list[dict[str, Any]], done: Sequence[Done]) -> dict[str, Any]:
    first = _result(done[0])
    return {
        "title": title,
        "data": part.data,
        **{k: first[k] for k in ("records", "active", "unreadable") if k in first},
        "recipes": {name: vars(recipe) for name, recipe in part.recipes.items()},
        "command": "python -m flows.private_study --data FOLDER",
        "hardware": first["hardware"],
        "rows": rows,
    }


def _base(part: Part, done: Sequence[Done]) -> dict[str, Any]:
    rows = []
    for optimiser in part.recipes:
        own = [d for d in done if d.cell.optimiser == optimiser]
        for measure_ in _result(own[0])["base"] if own else ():
            values = [_result(d)["base"][measure_] for d in own]
            rows.append(
                {
                    "optimiser": optimiser,
                    "measure": measure_,
                    **over_seeds(values),
                    "values": values,
                    "seeds": [d.cell.seed for d in own],
                    "published": part.base[optimiser].get(measure_),
                    "cpu_seconds": round(sum(d.cpu_seconds for d in own), 1),
                }
            )
    return _table("Base networks without privacy, and what the study's attack finds", part, rows, done)


def _choices(part: Part, done: Sequence[Done]) -> dict[str, Any]:
    rows = []
    for optimiser in part.recipes:
        own = [d for d in done if d.cell.optimiser == optimiser]
        for i, choice in enumerate(_result(own[0])["choices"] if own else ()):
            found = [_result(d)["choices"][i] for d in own]
            published = part.choices[optimiser].get(choice["t"])
            measured = [k for k in choice if k not in ("t", "clip", "noise")]
            rows.append(
                {
                    "optimiser": optimiser,
                    "t": choice["t"],
                    **{k: over_seeds([f[k] for f in found]) for k in measured},
                    "chosen": [{k: f[k] for k in ("clip", "noise", *COMPARED)} for f in found],
                    "seeds": [d.cell.seed for d in own],
                    "published": dict(zip(COMPARED, published, strict=True)) if published else None,
                }
            )
    table = _table("What the trade-off t chooses on the grid, each choice trained anew five times", part, rows, done)
    return table | {
        "surfaces": [{"seed": d.cell.seed, "optimiser": d.cell.optimiser, **_result(d)["surface"]} for d in done]
    }


def _progress(done: Sequence[Done]) -> dict[str, Any]:
    rows = [
        {
            "set": "HIV" if isinstance(d.cell.on, MoleculesCell) else "Synthea-like",
            "optimiser": d.cell.on.optimiser,
            "seed": d.cell.on.seed,
            "most": d.cell.most,
            "trials": d.cell.trials,
            "best": _result(d)["best"],
            "cpu_seconds": round(d.cpu_seconds, 1),
        }
        for d in done
    ]
    return {
        "title": "New best trials of the study's optimiser, by the largest clipping norm and noise that it may try",
        "command": "python -m flows.private_study --data FOLDER",
        "hardware": _result(done[0])["hardware"],
        "rows": rows,
    }


def _result(done: Done) -> dict[str, Any]:
    assert done.result is not None
    return done.result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.private_study", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds synthea/ and hiv/")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=1, help="cells at a time, each on one thread")
    parser.add_argument("--out", type=Path, default=REPORTS, help="where the tables go")
    options = parser.parse_args(argv)
    console = terminal()
    limit_threads(1)
    with mendable("private_study", console):
        private_study(
            options.data.resolve(), seeds=options.seeds, workers=options.workers, reports=options.out, console=console
        )


if __name__ == "__main__":
    main()
