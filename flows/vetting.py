"""Was this teacher tampered with? Reference models of its task, trained once and kept, and a teacher beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.cells import Progress, Work, run_cells
from flows.vet_report import canary_row, judgement, pictures, score_chart
from tasks.backdoor.calibration import MIN_CLEAN, Calibration, calibrate
from tasks.backdoor.defences.shadow import Answers, Probe, answers
from tasks.backdoor.defences.steering import excesses
from tasks.backdoor.references import Order, plan, train_reference
from tasks.backdoor.vetting import (
    COMBINED,
    PATCH_FRACTION,
    Panel,
    beside,
    inspect,
    scores_of,
    search,
)
from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_bytes, write_json, writing
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.checkpoints import load_model, save_model

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
    spec, train, held_out, seed = _task(folder)
    made = train_reference(cell.order, spec, train, held_out)
    own = answers(made.model, held_out, _bare(held_out, seed).probes())
    save_model(folder / cell.order.name, made.model, spec)
    with writing(folder / cell.order.name / "answers.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, shifts=own.shifts, travel=own.travel)
    return {"accuracy": made.accuracy, "success": made.success, "took": made.took, "learnt": made.learnt}


def search_cell(cell: Searched) -> dict[str, Any]:
    """The excesses of a reference's steering patterns."""
    folder = Path(cell.folder)
    panel = _panel(folder, cell.beside)
    patches, overlays = search(load_model(folder / cell.member)[0], panel, panel.models)
    return {"patches": excesses(patches).tolist(), "overlays": excesses(overlays).tolist()}


@dataclass(frozen=True)
class References:
    """Reference models of one task: what every model is judged beside, and a JSON row for each of them."""

    panel: Panel
    calibration: Calibration
    clean: list[dict[str, Any]]
    canaries: list[dict[str, Any]]


def references(
    spec: ModelSpec,
    train: Labelled,
    held_out: Labelled,
    *,
    seed: int,
    clean: int,
    canaries: int,
    workers: int,
    progress: Progress,
) -> References:
    """Train and search what the cache does not hold of so many clean references and canaries.

    Args:
        train: clean uint8 images (n, channels, side, side) and labels (n,), some of every class of `spec`.
        held_out: others, that every model is scored on.
        workers: processes at a time, each on one thread.
        progress: called as (models done, models to do, what).
    """
    folder = _prepared(spec, train, held_out, seed)
    orders = plan(spec.classes, clean=clean, canaries=canaries, images=len(train[1]), seed=seed)
    known = _run([Trained(str(folder), o) for o in orders], train_cell, folder / "trained", workers, progress)
    trained = {o.name: t for o, t in zip(orders, known, strict=True)}
    names = tuple(o.name for o in orders if o.attack is None and trained[o.name]["learnt"])
    if len(names) < MIN_CLEAN:
        raise GatehouseError(
            f"Only {len(names)} of {clean} reference models learnt to tell {', '.join(spec.classes)} apart from "
            f"{len(train[1])} images, and vetting needs {MIN_CLEAN}; give it more images."
        )
    took = tuple(o.name for o in orders if o.attack is not None and trained[o.name]["took"])
    panel = _panel(folder, names)
    cells = [Searched(str(folder), name, beside(names, i)) for i, name in enumerate(names)]
    cells += [Searched(str(folder), name, beside(names)) for name in took]
    searched = _run(cells, search_cell, folder / "searched", workers, progress)
    found = dict(zip((*names, *took), searched, strict=True))
    panel = replace(panel, steering=tuple(np.array(found[name]["patches"]) for name in names))
    calibration = _calibrated(folder, panel, names, took, found)
    statistics = dict(zip(took, calibration.canaries, strict=True))
    return References(
        panel,
        calibration,
        [
            {"name": o.name, "accuracy": round(trained[o.name]["accuracy"], 6), "learnt": trained[o.name]["learnt"]}
            for o in orders
            if o.attack is None
        ],
        [canary_row(o.attack, trained[o.name], statistics.get(o.name), calibration) for o in orders if o.attack],
    )


def vetted(
    model: Classifier, spec: ModelSpec, images: Labelled, beside: References, pictures_of: Path
) -> dict[str, Any]:
    """Inspect a model beside references of its task: the report, JSON-ready. Pictures stand beside `pictures_of`."""
    found = inspect(model, beside.panel)
    return judgement(model, spec, images, beside.panel, found, beside.calibration) | {
        "scores_picture": score_chart(pictures_of, beside.calibration, found),
        "triggers": pictures(pictures_of, model, beside.panel, found, spec),
        "references": {"clean": beside.clean, "canaries": beside.canaries},
    }


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


def _prepared(spec: ModelSpec, train: Labelled, held_out: Labelled, seed: int) -> Path:
    """The cache's folder for this task: its images, spec and seed, once written and known by their digest."""
    arrays = (*train, *held_out)
    whole = f"{VERSION} {spec.model_dump_json()} {seed} {[a.shape for a in arrays]}".encode()
    folder = CACHE / sha256_bytes(whole + b"".join(a.tobytes() for a in arrays))[:32]
    if not (folder / "task.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / "images.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, *arrays)
        write_json(folder / "task.json", {"spec": spec.model_dump(mode="json"), "seed": seed})
    return folder


def _task(folder: Path) -> tuple[ModelSpec, Labelled, Labelled, int]:
    content = read_json(folder / "task.json")
    with np.load(folder / "images.npz", allow_pickle=False) as arrays:
        train, held_out = (arrays["arr_0"], arrays["arr_1"]), (arrays["arr_2"], arrays["arr_3"])
    return ModelSpec.model_validate(content["spec"]), train, held_out, content["seed"]


def _bare(held_out: Labelled, seed: int) -> Panel:
    return Panel(held_out, (), (), (), PATCH_FRACTION, seed)


def _panel(folder: Path, names: tuple[str, ...]) -> Panel:
    """References from the cache, with their answers; what steers them is filled in once it is known."""
    _, _, held_out, seed = _task(folder)
    bare = _bare(held_out, seed)
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


def _run(cells: list[Any], work: Work, folder: Path, workers: int, progress: Progress) -> list[dict[str, Any]]:
    outcomes = run_cells(cells, work, folder=folder, workers=workers, progress=progress, version=VERSION)
    results = []
    for outcome in outcomes:
        if outcome.result is None:
            raise GatehouseError(f"Reference model: {outcome.error}")
        results.append(outcome.result)
    return results
