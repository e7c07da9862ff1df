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
from PIL import Image
from rich.console import Console

from flows.cells import run_cells
from flows.stage import _limit_threads
from tasks.backdoor.calibration import Calibration, calibrate
from tasks.backdoor.defences.shadow import Answers, Probe, answers
from tasks.backdoor.defences.steering import Steered, control_of, excesses
from tasks.backdoor.pictures import shown
from tasks.backdoor.references import Order, plan, split, train_reference
from tasks.backdoor.vetting import (
    BESIDE,
    COMBINED,
    PATCH_FRACTION,
    Inspection,
    Panel,
    inspect,
    most_telling,
    scores_of,
    search,
)
from tasks.data.clean_set import CleanSet, read_clean_set
from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_bytes, write_json, writing
from tasks.models.architectures import Classifier, ModelSpec
from tasks.models.checkpoints import load_model, save_model
from tasks.models.inference import accuracy_of
from tasks.teachers.card import Offer, load_card
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
    cells = [Searched(str(folder), name, _beside(name, names)) for name in (*names, *took)]
    found_by = dict(zip((*names, *took), _run(console, cells, search_cell, folder / "searched", workers), strict=True))
    panel = replace(panel, steering=tuple(np.array(found_by[name]["patches"]) for name in names))
    calibration = _calibrated(folder, panel, names, took, found_by)
    found = inspect(model, panel)
    report = _report(offer, spec, sha256, given, panel, found, calibration, model)
    report["triggers"] = _pictures(out, model, panel, found, spec)
    report["references"] = {
        "clean": [{"name": n, "accuracy": round(references[n]["accuracy"], 6)} for n in names],
        "canaries": [_canary(o, references[o.name], dict(zip(took, calibration.canaries, strict=True)), calibration)
                     for o in orders if o.attack is not None],
    }  # fmt: skip
    report |= {"seed": seed, "minutes": round((time.monotonic() - started) / 60, 3)}
    write_json(out, report)
    _say(console, f"[bold]{report['verdict']}[/bold], score {report['score']:.3f}; {_power(calibration)}; "
                  f"{report['minutes']:.1f} minutes; {out}")  # fmt: skip
    return report


def _beside(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Clean references that a member is searched beside; a clean one beside those that follow it."""
    start = names.index(name) + 1 if name in names else 0
    others = [n for n in (*names[start:], *names[:start]) if n != name]
    return tuple(others[:BESIDE])


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


def _report(
    offer: Offer, spec: ModelSpec, sha256: str, given: CleanSet, panel: Panel, found: Inspection,
    calibration: Calibration, model: Classifier,
) -> dict[str, Any]:  # fmt: skip
    deviations = calibration.deviations(found.scores)
    return {
        "card": str(offer.path),
        "teacher": offer.card.name,
        "sha256": sha256,
        "architecture": spec.architecture,
        "classes": list(spec.classes),
        "verdict": calibration.verdict(found.scores),
        "score": round(calibration.score(found.scores), 6),
        "statistic": round(calibration.statistic(found.scores), 6),
        "threshold": round(calibration.threshold, 6) if np.isfinite(calibration.threshold) else None,
        "power": calibration.power.as_json(),
        "false_alarms": calibration.alarms.as_json() | {"allowed": calibration.false_alarms},
        "detectors": {
            name: {"raw": round(value, 6), "deviation": round(deviations[name], 6), "decides": name in COMBINED}
            for name, value in found.scores.items()
        },
        "most_telling": _named(most_telling(found, panel), spec),
        "images": {
            "used": len(given.labels),
            "scored_on": len(panel.images[1]),
            "by_class": {c: int((given.labels == i).sum()) for i, c in enumerate(spec.classes)},
            "unreadable": len(given.unreadable),
        },
        "accuracy_on_them": round(
            accuracy_of(model, (given.images, given.labels)), 6
        ),
    }  # fmt: skip


def _named(told: dict[str, Any], spec: ModelSpec) -> dict[str, Any]:
    return told | {"class": spec.classes[told["class"]]}


def _pictures(out: Path, model: Classifier, panel: Panel, found: Inspection, spec: ModelSpec) -> list[dict[str, Any]]:
    """For every class the pattern of each kind that steers the teacher furthest beyond the references, as a picture."""
    rows = []
    for kind, patterns in (("patch", found.patches), ("overlay", found.overlays)):
        for c in sorted({p.target_class for p in patterns}):
            best = max((p for p in patterns if p.target_class == c), key=lambda p: p.excess)
            file = out.with_name(f"{out.stem}_{kind}_{c}.png")
            example = panel.images[0][np.flatnonzero(panel.images[1] != c)[0]]
            with writing(file) as temporary:
                Image.fromarray(shown(example, best.trigger)).save(temporary, format="PNG")
            rows.append(_trigger(file, kind, best, control_of(model, best, panel.images), spec))
    return rows


def _trigger(file: Path, kind: str, found: Steered, control: float, spec: ModelSpec) -> dict[str, Any]:
    return {
        "picture": file.name,
        "kind": kind,
        "class": spec.classes[found.target_class],
        "place": found.place,
        "side": found.trigger.pattern.shape[-1],
        "opacity": found.trigger.alpha,
        "control": round(control, 6),
        "references_control": round(found.reference_control, 6),
        "shift": round(found.own, 6),
        "largest_shift_of_a_reference": round(found.references, 6),
    }


def _canary(
    order: Order, trained: dict[str, Any], statistics: dict[str, float], calibration: Calibration
) -> dict[str, Any]:
    attack, statistic = order.attack, statistics.get(order.name)
    if attack is None:
        raise AssertionError("a canary has an attack")
    return {
        "attack": attack.name,
        "pattern": attack.pattern,
        "side_fraction": attack.side_fraction,
        "opacity": attack.alpha,
        "place": attack.place,
        "success": round(trained["success"], 6),
        "took": trained["took"],
        "statistic": None if statistic is None else round(statistic, 6),
        "caught": None if statistic is None else statistic > calibration.threshold,
    }


def _power(calibration: Calibration) -> str:
    power, alarms = calibration.power, calibration.alarms
    low, high = power.interval
    return (
        f"power {power.hits} of {power.n} canaries [{low:.2f}, {high:.2f}] at {alarms.hits} of {alarms.n} clean "
        "references accused"
    )


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
    _limit_threads(1)
    try:
        vet(
            asked.card, asked.data, asked.out, images=asked.images, seed=asked.seed, clean=asked.clean,
            canaries=asked.canaries, workers=asked.workers, console=console,
        )  # fmt: skip
    except GatehouseError as error:
        console.print(f"[bold red]vet: {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
