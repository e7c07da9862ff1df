"""`python -m flows.privacy tune`: which clipping, noise, batch and rate for this table? A CSV file in, a page out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

from rich.console import Console

from flows.stage import limit_threads
from flows.terminal import bar, mendable, terminal
from tasks.errors import GatehouseError
from tasks.files import sha256_bytes, write_json, write_text
from tasks.privacy.tabular import read_table
from tasks.privacy.tuning import suggest
from tasks.privacy.tuning.figures import front_figure
from tasks.privacy.tuning.goals import Goal
from tasks.privacy.tuning.page import render
from tasks.privacy.tuning.search import Search

GOALS = {
    "epsilon": "the largest ε that may be proven",
    "advantage": "the largest membership advantage, in (0, 1), that any attack may have",
    "utility_loss": "the largest loss of AUC",
    "trade_off": "the study's t in (0, 1): near 1 utility counts, near 0 privacy",
}


def tune(options: argparse.Namespace, console: Console) -> None:
    """Tune, and write OUT.json, OUT.png and OUT.html; trials are kept beside them, so that a run goes on."""

    def say(words: str) -> None:
        console.print(f"[bold]tune[/bold]  {words}", highlight=False, soft_wrap=True)

    def progress(done: int, total: int) -> None:
        say(f"{bar(done, total)} levels of ε")

    started, out = time.monotonic(), options.out
    goal = _goal(options)
    table = read_table(options.data, options.label, drop=tuple(options.drop))
    say(f"{options.data}: {len(table)} records, {len(table.features)} features, classes {', '.join(table.classes)}")
    if table.left_out:
        say(f"left out, since they say nothing or name the record: {', '.join(table.left_out)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    trials = out.with_suffix(".trials.db")
    what = (
        f"{sha256_bytes(table.x.tobytes() + table.y.tobytes())} {goal} {options.search} {options.hidden} {options.seed}"
    )
    found = suggest(
        table, goal, search=options.search, trials=options.trials, hidden=tuple(options.hidden),
        target_delta=options.delta, seed=options.seed, name=what, storage=f"sqlite:///{trials}", say=say,
        progress=progress,
    )  # fmt: skip
    report = found.as_json() | {
        "source": options.data.name,
        "label": options.label,
        "features": list(table.features),
        "left_out": list(table.left_out),
        "search": options.search,
        "hidden": list(options.hidden),
        "seed": options.seed,
        "minutes": round((time.monotonic() - started) / 60, 3),
    }
    front_figure(
        out.with_suffix(".png"), report["points"], report["suggestion"], utility=report["baseline"]["selection_auc"]
    )
    write_json(out.with_suffix(".json"), report)
    write_text(out.with_suffix(".html"), render(report, out.with_suffix(".png")))
    own = found.chosen
    say(
        f"[bold]clipping {own.setting.clip:.3g}, noise {own.setting.noise:.4g}, batch {own.setting.batch_size}, "
        f"{own.setting.epochs} epochs, learning rate {own.setting.learning_rate:.3g}[/bold]: ε = {own.epsilon:.3g}, "
        f"AUC {found.report['auc']:.3f} ({found.baseline['report_auc']:.3f} without privacy)"
    )
    if found.note:
        say(f"[bold]the goal is not met[/bold]: {found.note}")
    say(f"{report['minutes']:.1f} minutes; read {out.with_suffix('.html')}")


def _goal(options: argparse.Namespace) -> Goal:
    asked = [(name, value) for name in GOALS if (value := getattr(options, name)) is not None]
    if len(asked) > 1:
        named = " and ".join("--" + name.replace("_", "-") for name, _ in asked)
        raise GatehouseError(f"{named} are two goals; give one.")
    name, value = asked[0] if asked else ("epsilon", 3.0)
    return Goal(name, value)  # type: ignore[arg-type]  # a key of GOALS


def main(argv: list[str]) -> None:
    """The command line of `python -m flows.privacy tune`."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.privacy tune",
        description="Suggest clipping, noise, batch size, epochs and learning rate for private training on a table, "
        "with the proof, the measured risk, the cost and the alternatives, as OUT.html and OUT.json.",
    )
    parser.add_argument("--data", type=Path, required=True, help="CSV file with a header line")
    parser.add_argument("--label", required=True, help="column to predict")
    parser.add_argument("--drop", nargs="*", default=[], metavar="COLUMN", help="columns to leave out")
    parser.add_argument("--out", type=Path, default=Path("tuning/tuning.html"), help="default tuning/tuning.html")
    for name, words in GOALS.items():
        default = " (default: --epsilon 3)" if name == "epsilon" else ""
        parser.add_argument("--" + name.replace("_", "-"), type=float, help=words + default)
    parser.add_argument("--search", choices=get_args(Search), default="bayes", help="random: cheapest in ε")
    parser.add_argument("--trials", type=int, default=96, help="settings to try (default 96)")
    parser.add_argument("--hidden", type=int, nargs="*", default=[32], help="widths of hidden layers (default 32)")
    parser.add_argument("--delta", type=float, default=0.0, help="default: a tenth of one over the training records")
    parser.add_argument("--seed", type=int, default=7)
    console = terminal()
    limit_threads(1)
    with mendable("tune", console):
        tune(parser.parse_args(argv), console)
