"""`python -m flows.teacher vet`: was this teacher tampered with? A card and a small clean set in, a judgement out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.stage import limit_threads
from flows.terminal import bar, mendable, terminal
from flows.vet_report import power_in_words
from flows.vetting import CANARIES, CLEAN, references, vetted
from tasks.backdoor.references import split
from tasks.data.clean_set import read_clean_set
from tasks.files import write_json
from tasks.teachers.card import load_card
from tasks.teachers.opening import open_teacher


def vet(
    card: Path, data: Path, out: Path, *, images: int, seed: int, clean: int, canaries: int, workers: int,
    console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Judge the teacher of a card with clean images of class folders; writes `out` and pictures beside it."""

    def say(text: str) -> None:
        console.print(f"[bold]vet[/bold]  {text}", highlight=False, soft_wrap=True)

    def progress(done: int, total: int, text: str) -> None:
        say(f"{bar(done, total)} {text}")

    started = time.monotonic()
    offer = load_card(card)
    model, spec, sha256 = open_teacher(offer)
    given = read_clean_set(
        data, spec.classes, channels=spec.channels, image_size=spec.image_size, limit=images, seed=seed
    )
    say(f"{offer.card.name} ({spec.architecture}), {len(given.labels)} clean images")
    own = (given.images, given.labels)
    beside = references(
        spec, *split(own, seed=seed), seed=seed, clean=clean, canaries=canaries, workers=workers, progress=progress
    )
    report: dict[str, Any] = {"card": str(offer.path), "teacher": offer.card.name, "sha256": sha256}
    report |= vetted(model, spec, own, beside, out)
    report |= {
        "unreadable_images": len(given.unreadable),
        "seed": seed,
        "minutes": round((time.monotonic() - started) / 60, 3),
    }
    write_json(out, report)
    say(
        f"[bold]{report['verdict']}[/bold], score {report['score']:.3f}; {power_in_words(beside.calibration)}; "
        f"{report['minutes']:.1f} minutes; {out}"
    )
    return report


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
    console = terminal()
    limit_threads(1)
    with mendable("vet", console):
        vet(
            asked.card, asked.data, asked.out, images=asked.images, seed=asked.seed, clean=asked.clean,
            canaries=asked.canaries, workers=asked.workers, console=console,
        )  # fmt: skip
