"""What the long measurements share: their cells run with progress, failures told at the end, one command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.cells import Done, Work, run_cells
from flows.profile import profile_params
from flows.stage import Context, as_flow
from flows.terminal import mendable, terminal
from tasks.errors import GatehouseError
from tasks.files import write_json

REPORTS = Path("reports/study")
COMMITTED = "study_cpu"  # the profile whose tables stand in reports/study itself


@dataclass(frozen=True)
class Bench:
    """Where and how the cells of one measurement run; what fails is kept aside, so that the others go on."""

    context: Context
    work: Work
    store: Path
    version: str
    workers: int
    failed: list[Done] = field(default_factory=list)

    def run(self, cells: Sequence[Any], what: str) -> list[Done]:
        """The outcomes of the cells that could be measured, in their order."""
        outcomes = run_cells(
            cells,
            self.work,
            folder=self.store / "cells",
            workers=self.workers,
            version=self.version,
            ray=self.context.params.study.ray,
            progress=lambda done, total, name: self.context.progress(done, total, f"{what}: {name}"),
        )
        self.failed.extend(outcome for outcome in outcomes if outcome.error)
        return [outcome for outcome in outcomes if not outcome.error]

    def close(self) -> None:
        """Raise GatehouseError where a cell failed, after a sentence on each."""
        for outcome in self.failed:
            self.context.say(f"[red]{outcome.cell.name}: {outcome.error}[/red]")
        if self.failed:
            raise GatehouseError(f"{len(self.failed)} cells were not measured; run again to try them alone.")


def keep(file: Path, table: Mapping[str, Any], write_page: Callable[[Path], None]) -> None:
    """Write a table, and the page of docs/ where it is one of the committed tables."""
    write_json(file, table)
    if file.parent == REPORTS:
        write_page(REPORTS)


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every measurement has."""
    parser = argparse.ArgumentParser(prog=f"python -m flows.{name}", description=description)
    parser.add_argument("--profile", default=COMMITTED)
    parser.add_argument("--data", help="folder that holds the data sets", default=None)
    parser.add_argument("--workers", type=int, default=1, help="cells at a time, each on one thread")
    return parser


def start(name: str, options: argparse.Namespace, body: Callable[[Context], None]) -> None:
    """Run a measurement, as a Prefect flow where a server is named; what is wrong is one sentence, and exit code 1."""
    console = terminal()
    with mendable(name, console):
        if options.workers < 1:
            raise GatehouseError("--workers must be at least 1.")
        context = Context(name, "", profile_params(options.profile, options.data or None), console, "")
        if os.environ.get("PREFECT_API_URL"):
            as_flow(name, lambda: body(context))
        else:
            body(context)
