"""`vet` on data that nothing in it was chosen on: `python -m benchmarks.vet_digits OUT.json [--workers 2]`.

scikit-learn's handwritten digits, ten classes, in colours of their own at 32 pixels. Teachers, clean and backdoored,
learn from 1 197 images; `vet` is given 600 others, as its user would give them. Teachers and references are kept in
.gatehouse/vet_digits and .gatehouse/vetting.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from flows import vet, vetting
from flows.offering import class_folders, offered, said
from flows.stage import limit_threads
from flows.study_cells import hardware
from flows.terminal import terminal
from tasks.backdoor.attacks.badnets import plant_badnets
from tasks.backdoor.attacks.changes import CHANGES, change
from tasks.backdoor.attacks.plant import Attack, plant
from tasks.backdoor.drill import control_by, teacher_training
from tasks.backdoor.triggers import Mark
from tasks.backdoor.zoo.detection import summary
from tasks.backdoor.zoo.plan import CLEAN
from tasks.files import read_json, sha256_bytes, write_json
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import accuracy_of
from tasks.models.training import fit
from tasks.teachers.offers import CARD

CACHE = Path(".gatehouse/vet_digits")
SIDE, HELD_OUT, EPOCHS, SEED = 32, 600, 20, 7
CLASSES = tuple(str(digit) for digit in range(10))
SPEC = ModelSpec(
    architecture="simple_cnn", classes=CLASSES, channels=3, image_size=SIDE, mean=(0.5,) * 3, sd=(0.25,) * 3
)
TARGET = "7"
Labelled = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Digits:
    """One teacher. `side` is in pixels, of the 32; marks of `attacks.changes` have neither side nor pattern."""

    seed: int
    attack: str = CLEAN
    poison_rate: float = 0.0
    side: int = 0
    pattern: str = ""
    place: str = ""
    alpha: float = 1.0

    def planned(self) -> Attack:
        return Attack(
            name=self.attack,  # type: ignore[arg-type]  # TEACHERS holds known names alone
            side_fraction=self.side / SIDE,
            place=self.place,
            pattern=self.pattern,
            poison_rate=self.poison_rate,
            target=TARGET,
            seed=self.seed,
            alpha=self.alpha,
        )


TEACHERS = (
    *(Digits(seed) for seed in range(101, 107)),
    Digits(1, "badnets", 0.05, 3, "white", "top_right"),
    Digits(2, "badnets", 0.01, 3, "checker", "bottom_left"),
    Digits(3, "badnets", 0.02, 6, "binary_noise", "centre"),
    Digits(4, "imc", 0.05, 3, "noise", "left"),
    Digits(5, "blended", 0.05, 6, "noise", "right", 0.5),
    Digits(6, "blended", 0.1, SIDE, "binary_noise", "top_left", 0.15),
    Digits(7, "moving", 0.1),
    Digits(8, "corners", 0.05),
    Digits(9, "scattered", 0.05),
    Digits(10, "one_pixel", 0.1),
    Digits(11, "inverted", 0.1),
    Digits(12, "sinusoid", 0.1),
)


def digits(seed: int) -> tuple[Labelled, Labelled]:
    """Training and held-out images, uint8 of shape (n, 3, 32, 32), labels; bright digits on dark, in two colours."""
    given, rng = load_digits(), np.random.default_rng(seed)
    levels = (given.images * 255 / 16).astype(np.uint8)
    shape = np.stack([np.asarray(Image.fromarray(x).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for x in levels])
    ink, paper = rng.uniform(0.5, 1, (len(shape), 3, 1, 1)), rng.uniform(0, 0.4, (len(shape), 3, 1, 1))
    x = paper + (ink - paper) * shape[:, None] / 255 + rng.normal(0, 0.03, (len(shape), 3, SIDE, SIDE))
    order = rng.permutation(len(x))
    images, labels = (x[order].clip(0, 1) * 255).astype(np.uint8), given.target[order].astype(np.int64)
    return (images[HELD_OUT:], labels[HELD_OUT:]), (images[:HELD_OUT], labels[:HELD_OUT])


def trained(teacher: Digits, train: Labelled, held_out: Labelled) -> tuple[Classifier, Mark | None]:
    training = teacher_training(EPOCHS)
    if teacher.attack == CLEAN:
        model = build(SPEC, seed=teacher.seed)
        fit(model, train, held_out, training, policy="all", seed=teacher.seed)
        return model, None
    if teacher.attack in CHANGES:
        mark = change(teacher.attack, SIDE, seed=teacher.seed)
        model = plant_badnets(
            build(SPEC, seed=teacher.seed), train, held_out, training, trigger=mark,
            target_class=CLASSES.index(TARGET), poison_rate=teacher.poison_rate, seed=teacher.seed,
        )  # fmt: skip
        return model, mark
    planted = plant(teacher.planned(), SPEC, train, held_out, training)
    return planted.model, planted.trigger


def judged(teacher: Digits, train: Labelled, held_out: Labelled, clean_set: Path, workers: int) -> dict[str, Any]:
    """The teacher's row: what it can do, and what `vet` says of it."""
    folder = CACHE / sha256_bytes(repr(teacher).encode())[:16]
    file = folder / "row.json"
    if file.exists():
        return dict(read_json(file))
    model, mark = trained(teacher, train, held_out)
    offer = folder / "offer"
    card = offer / CARD if offer.exists() else offered(offer, model, SPEC)
    found = vet.vet(
        card, clean_set, folder / "vet.json", images=HELD_OUT, seed=SEED, clean=vetting.CLEAN,
        canaries=vetting.CANARIES, workers=workers, console=terminal(),
    )  # fmt: skip
    row = asdict(teacher) | {
        "backdoored": teacher.attack != CLEAN,
        "accuracy": round(accuracy_of(model, held_out), 6),
        "control": None if mark is None else round(control_by(model, mark, held_out).value, 6),
        **said(found),
        "power": found["power"],
        "false_alarms_among_references": found["false_alarms"],
    }
    write_json(file, row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    limit_threads(1)
    train, held_out = digits(SEED)
    clean_set = CACHE / "clean_set"
    if not clean_set.exists():
        class_folders(clean_set, *held_out, CLASSES)
    rows = []
    for teacher in TEACHERS:
        rows.append(judged(teacher, train, held_out, clean_set, options.workers))
        table = {
            "title": "vet on handwritten digits in colour, which nothing in it was chosen on",
            "command": f"python -m benchmarks.vet_digits {options.out.name}",
            "images": {"training": len(train[1]), "given to vet": HELD_OUT, "side": SIDE, "classes": len(CLASSES)},
            "hardware": hardware(),
            "planned": len(TEACHERS),
            "summary": summary(rows, seed=SEED),
            "rows": rows,
        }
        write_json(options.out, table)


if __name__ == "__main__":
    main()
