"""The study's Part II measured again on the Synthea-like set: Tables 11 and 13 (reports/study).

`python -m flows.private_study --data FOLDER`, FOLDER as Synthea's sample unpacks. Cells are kept in .gatehouse/private:
a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.cells import Done, run_cells
from flows.measuring import REPORTS
from flows.private_cells import VERSION, PrivateCell, work
from flows.stage import limit_threads
from flows.terminal import bar, mendable, terminal
from tasks.errors import GatehouseError
from tasks.files import sha256_file, write_json
from tasks.privacy.study import SYNTHEA
from tasks.privacy.synthea_like import read_sources
from tasks.stats import over_seeds

STORE = Path(".gatehouse/private")
SEEDS = 3
# Published: Table 11 (training, testing and unseen AUC, leakage), and Table 13 (loss of AUC, remaining risk) by t.
BASE = {
    "sgd": {"training_auc": 0.990, "testing_auc": 0.984, "unseen_auc": 0.986, "leakage": 0.622},
    "adam": {"training_auc": 0.998, "testing_auc": 0.992, "unseen_auc": 0.995, "leakage": 0.639},
}
COMPARED = ("utility_loss", "privacy_risk")
CHOICES = {
    "sgd": {0.25: (0.046, 0.496), 0.5: (0.037, 0.497), 0.75: (0.002, 0.518)},
    "adam": {0.25: (0.003, 0.508), 0.5: (0.002, 0.504), 0.75: (0.0, 0.51)},
}


def private_study(folder: Path, *, seeds: int, workers: int, reports: Path, console: Console) -> None:
    """Measure what is missing and write both tables; GatehouseError where a cell failed."""
    read_sources(folder)
    digest = sha256_file(folder / "patients.csv")
    cells = [PrivateCell(digest, str(folder), o, 7 + 1000 * i) for o in SYNTHEA for i in range(seeds)]

    def progress(done: int, total: int, name: str) -> None:
        console.print(f"[bold]private_study[/bold]  {bar(done, total)} {name}", highlight=False)

    outcomes = run_cells(
        cells, work, folder=STORE / "cells", workers=workers, version=VERSION, progress=progress
    )  # fmt: skip
    done = [d for d in outcomes if d.result]
    if done:
        write_json(reports / "table11.json", _base(done))
        write_json(reports / "table13.json", _choices(done))
    if failed := [d for d in outcomes if not d.result]:
        raise GatehouseError(f"{len(failed)} cells were not measured: {failed[0].cell.name}: {failed[0].error}")


def _table(title: str, rows: list[dict[str, Any]], done: Sequence[Done]) -> dict[str, Any]:
    return {
        "title": title,
        "data": "a Synthea-like set drawn anew (tasks/privacy/synthea_like.py), not the study's own draw",
        "records": _result(done[0])["records"],
        "recipes": {name: vars(recipe) for name, recipe in SYNTHEA.items()},
        "command": "python -m flows.private_study --data FOLDER",
        "hardware": _result(done[0])["hardware"],
        "rows": rows,
    }


def _base(done: Sequence[Done]) -> dict[str, Any]:
    rows = []
    for optimiser in SYNTHEA:
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
                    "published": BASE[optimiser].get(measure_),
                    "cpu_seconds": round(sum(d.cpu_seconds for d in own), 1),
                }
            )
    return _table("Base networks without privacy, and what the study's attack finds", rows, done)


def _choices(done: Sequence[Done]) -> dict[str, Any]:
    rows = []
    for optimiser in SYNTHEA:
        own = [d for d in done if d.cell.optimiser == optimiser]
        for i, choice in enumerate(_result(own[0])["choices"] if own else ()):
            found = [_result(d)["choices"][i] for d in own]
            published = CHOICES[optimiser].get(choice["t"])
            rows.append(
                {
                    "optimiser": optimiser,
                    "t": choice["t"],
                    **{k: over_seeds([f[k] for f in found]) for k in (*COMPARED, "epsilon")},
                    "chosen": [{k: f[k] for k in ("clip", "noise", *COMPARED)} for f in found],
                    "seeds": [d.cell.seed for d in own],
                    "published": dict(zip(COMPARED, published, strict=True)) if published else None,
                }
            )
    table = _table("What the trade-off t chooses on the grid, each choice trained anew five times", rows, done)
    return table | {
        "surfaces": [{"seed": d.cell.seed, "optimiser": d.cell.optimiser, **_result(d)["surface"]} for d in done]
    }


def _result(done: Done) -> dict[str, Any]:
    assert done.result is not None
    return done.result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.private_study", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of Synthea's sample")
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
