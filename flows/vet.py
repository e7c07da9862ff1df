"""`python -m flows.teacher vet`: was this teacher tampered with? A card and a small clean set in, a judgement out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from flows.cells import run_cells
from flows.stage import limit_threads
from flows.vet_report import canary_row, judgement, pictures, power_in_words
from tasks.backdoor.calibration import Calibration, calibrate
from tasks.backdoor.defences.shadow import Answers, Probe, answers
from tasks.backdoor.defences.steering import excesses
from tasks.backdoor.references import Order, plan, split, train_reference
from tasks.backdoor.vetting import (
    COMBINED,
    PATCH_FRACTION,
    Panel,
    beside,
    inspect,
    scores_of,
    search,
)
from tasks.data.clean_set import read_clean_set
from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_bytes, write_json, writing
from tasks.models.architectures import ModelSpec
from tasks.models.checkpoints import load_model, save_model
from tasks.teachers.card import load_card
from tasks.teachers.opening import open_teacher

CACHE = Path(".gatehouse/vetting")
VERSION = "3"  # of references and scores; raise it when their code changes what they give
CLEAN, CANARIES = 19, 8  # enough for bounds of use on power and false alarms, few enough for minutes
Labelled = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Trained:
    """A reference to train for the task that `folder` holds."""

    folder: str
    order: Order

    @property
    def name(self) -> str:
        return f"trained {self.order.name}"


@dataclass(frozen=True)
class Searched:
    """A reference to search for steering patterns, beside clean ones."""

    folder: str
    member: str
    beside: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"searched {self.member}"


def train_cell(cell: Trained) -> dict[str, Any]:
    """Train a reference, note its answers to the probes, and keep both beside the task."""
    folder = Path(cell.folder)
    spec, images, seed = _task(folder)
    train, held_out = split(images, seed=seed)
    made = train_reference(cell.order, spec, train, held_out)
    own = answers(made.model, held_out, _bare(held_out, seed).probes())
    save_model(folder / cell.order.name, made.model, spec)
    with writing(folder / cell.order.name / "answers.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, shifts=own.shifts, travel=own.travel)
    return {"accuracy": made.accuracy, "success": made.success, "took": made.took}


def search_cell(cell: Searched) -> dict[str, Any]:
    """The excesses of a reference's steering patterns."""
    folder = Path(cell.folder)
    panel = _panel(folder, cell.beside)
    patches, overlays = search(load_model(folder / cell.member)[0], panel, panel.models)
    return {"patches": excesses(patches).tolist(), "overlays": excesses(overlays).tolist()}


def vet(
    card: Path, data: Path, out: Path, *, images: int, seed: int, clean: int, canaries: int, workers: int,
    console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Judge the teacher of a card with clean images of class folders; writes `out` and pictures beside it."""
    started = time.monotonic()
    offer = load_card(card)
    model, spec, sha256 = open_teacher(offer)
    given = read_clean_set(
        data, spec.classes, channels=spec.channels, image_size=spec.image_size, limit=images, seed=seed
    )
    _say(console, f"{offer.card.name} ({spec.architecture}), {len(given.labels)} clean images")
    folder = _prepared(spec, (given.images, given.labels), seed)
    orders = plan(spec.classes, clean=clean, canaries=canaries, seed=seed)
    trained = _run(console, [Trained(str(folder), o) for o in orders], train_cell, folder / "trained", workers)
    references = {o.name: t for o, t in zip(orders, trained, strict=True)}
    names = tuple(o.name for o in orders if o.attack is None)
    took = tuple(o.name for o in orders if o.attack is not None and references[o.name]["took"])
    panel = _panel(folder, names)
    cells = [Searched(str(folder), name, beside(names, i)) for i, name in enumerate(names)]
    cells += [Searched(str(folder), name, beside(names)) for name in took]
    found_by = dict(zip((*names, *took), _run(console, cells, search_cell, folder / "searched", workers), strict=True))
    panel = replace(panel, steering=tuple(np.array(found_by[name]["patches"]) for name in names))
    calibration = _calibrated(folder, panel, names, took, found_by)
    found = inspect(model, panel)
    report = judgement(offer, spec, sha256, given, panel, found, calibration, model)
    report["triggers"] = pictures(out, model, panel, found, spec)
    report["references"] = {
        "clean": [{"name": n, "accuracy": round(references[n]["accuracy"], 6)} for n in names],
        "canaries": [canary_row(o, references[o.name], dict(zip(took, calibration.canaries, strict=True)), calibration)
                     for o in orders if o.attack is not None],
    }  # fmt: skip
    report |= {"seed": seed, "minutes": round((time.monotonic() - started) / 60, 3)}
    write_json(out, report)
    _say(console, f"[bold]{report['verdict']}[/bold], score {report['score']:.3f}; {power_in_words(calibration)}; "
                  f"{report['minutes']:.1f} minutes; {out}")  # fmt: skip
    return report


def _calibrated(
    folder: Path, panel: Panel, names: tuple[str, ...], took: tuple[str, ...], found: dict[str, dict[str, Any]]
) -> Calibration:
    """Every clean reference beside the others, every canary beside all of them."""
    probes = panel.probes()

    def scores(name: str, beside: Panel) -> dict[str, float]:
        patches, overlays = (np.array(found[name][kind]) for kind in ("patches", "overlays"))
        return scores_of(_answers(folder / name, probes), patches, overlays, beside)

    clean = [scores(name, panel.without(i)) for i, name in enumerate(names)]
    return calibrate(clean, [scores(name, panel) for name in took], combined=COMBINED)


def _prepared(spec: ModelSpec, images: Labelled, seed: int) -> Path:
    """The cache's folder for this task: its images, spec and seed, once written and known by their digest."""
    whole = f"{VERSION} {spec.model_dump_json()} {seed} {images[0].shape}".encode()
    folder = CACHE / sha256_bytes(whole + images[0].tobytes() + images[1].tobytes())[:32]
    if not (folder / "task.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / "images.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, images=images[0], labels=images[1])
        write_json(folder / "task.json", {"spec": spec.model_dump(mode="json"), "seed": seed})
    return folder


def _task(folder: Path) -> tuple[ModelSpec, Labelled, int]:
    content = read_json(folder / "task.json")
    with np.load(folder / "images.npz", allow_pickle=False) as arrays:
        return ModelSpec.model_validate(content["spec"]), (arrays["images"], arrays["labels"]), content["seed"]


def _bare(held_out: Labelled, seed: int) -> Panel:
    return Panel(held_out, (), (), (), PATCH_FRACTION, seed)


def _panel(folder: Path, names: tuple[str, ...]) -> Panel:
    """References from the cache, with their answers; what steers them is filled in once it is known."""
    _, images, seed = _task(folder)
    bare = _bare(split(images, seed=seed)[1], seed)
    probes = bare.probes()
    return replace(
        bare,
        models=tuple(load_model(folder / name)[0] for name in names),
        answers=tuple(_answers(folder / name, probes) for name in names),
    )


def _answers(folder: Path, probes: Sequence[Probe]) -> Answers:
    with np.load(folder / "answers.npz", allow_pickle=False) as arrays:
        return Answers(
            tuple(p.family for p in probes), tuple(p.name for p in probes), arrays["shifts"], arrays["travel"]
        )


def _run(console: Console, cells: list[Any], work: Any, folder: Path, workers: int) -> list[dict[str, Any]]:
    def progress(done: int, total: int, text: str) -> None:
        _say(console, f"{'█' * round(20 * done / total):<20} {done}/{total} {text}")

    outcomes = run_cells(cells, work, folder=folder, workers=workers, progress=progress, version=VERSION)
    results = []
    for outcome in outcomes:
        if outcome.result is None:
            raise GatehouseError(f"Reference model: {outcome.error}")
        results.append(outcome.result)
    return results


def _say(console: Console, text: str) -> None:
    console.print(f"[bold]vet[/bold]  {text}", highlight=False, soft_wrap=True)


def main(argv: list[str]) -> None:
    """The command line of `python -m flows.teacher vet`."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.teacher vet",
        description="Judge whether a teacher was tampered with: a score in [0, 1], a verdict (tampered, no sign, "
        "inconclusive) with its power, and the patterns that steer it, as pictures beside OUT.",
    )
    parser.add_argument("--card", type=Path, required=True, help="the teacher's card (see cards/)")
    parser.add_argument("--data", type=Path, required=True, help="clean images: a folder for each class of the teacher")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--images", type=int, default=600, help="at most so many images (default 600; 200 at least)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--clean", type=int, default=CLEAN, help=f"clean references to train (default {CLEAN})")
    parser.add_argument("--canaries", type=int, default=CANARIES, help=f"canaries to train (default {CANARIES})")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (default 2)")
    asked = parser.parse_args(argv)
    console = Console(file=sys.stdout, width=160 if not sys.stdout.isatty() else None)
    limit_threads(1)
    try:
        vet(
            asked.card, asked.data, asked.out, images=asked.images, seed=asked.seed, clean=asked.clean,
            canaries=asked.canaries, workers=asked.workers, console=console,
        )  # fmt: skip
    except GatehouseError as error:
        console.print(f"[bold red]vet: {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
