"""Which teachers stand in the zoo, and how much is spent on each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tasks.backdoor.attacks.plant import Attack
from tasks.backdoor.study.published import IMAGE_SIDE

CLEAN = "clean"
CLEAN_SEED = 500  # between the seed of a backdoored teacher and that of the clean one that follows it
TARGET = "normal"
LATENT_TARGET = "covid"


@dataclass(frozen=True)
class Sizes:
    """Images and epochs of one architecture's teachers and students."""

    teacher_images: int
    teacher_epochs: int
    student_images: int
    student_epochs: int
    test_images: int


SIZES = {
    "simple_cnn": Sizes(3000, 6, 12000, 14, 1500),
    "resnet18": Sizes(2000, 4, 3000, 10, 1200),
}


ROW = ("architecture", "attack", "side", "poison_rate", "pattern", "place", "alpha", "seed", "target")


@dataclass(frozen=True)
class ZooTeacher:
    """A teacher of the zoo. `side` is in pixels of 224, 224 for a trigger over the whole image; 0 for a clean one."""

    data: str  # digest of both tasks' manifests
    image_size: int
    architecture: str
    seed: int
    attack: str = CLEAN
    side: int = 0
    poison_rate: float = 0.0
    pattern: str = ""
    place: str = ""
    alpha: float = 1.0

    @property
    def name(self) -> str:
        if self.attack == CLEAN:
            return f"{self.architecture} clean seed {self.seed}"
        return f"{self.architecture} {self.attack} {self.side} px {self.poison_rate:g} seed {self.seed}"

    @property
    def target(self) -> str:
        return LATENT_TARGET if self.attack == "latent" else TARGET

    def as_json(self) -> dict[str, Any]:
        """What makes it what it is, as tables name it."""
        own = asdict(self) | {"target": "" if self.attack == CLEAN else self.target}
        return {k: own[k] for k in ROW}

    def planned(self) -> Attack:
        """The attack that makes it."""
        return Attack(
            name=self.attack,  # type: ignore[arg-type]  # `BACKDOORED` holds known names alone
            side_fraction=self.side / IMAGE_SIDE,
            place=self.place,
            pattern=self.pattern,
            poison_rate=self.poison_rate,
            target=self.target,
            seed=self.seed,
            alpha=self.alpha,
        )


# (attack, side of 224, poison rate, pattern, place, opacity). The study's three attacks with three sides each, the same
# at low rates and with other patterns and places, and two attacks that the study does not have.
Row = tuple[str, int, float, str, str, float]
BACKDOORED: dict[str, tuple[Row, ...]] = {
    "simple_cnn": (
        ("badnets", 20, 0.1, "white", "top_left", 1.0),
        ("imc", 20, 0.01, "white", "top_left", 1.0),
        ("latent", 20, 0.1, "white", "top_left", 1.0),
        ("badnets", 10, 0.1, "white", "top_left", 1.0),
        ("imc", 10, 0.01, "white", "top_left", 1.0),
        ("latent", 10, 0.1, "white", "top_left", 1.0),
        ("badnets", 5, 0.1, "white", "top_left", 1.0),
        ("imc", 5, 0.01, "white", "top_left", 1.0),
        ("latent", 5, 0.1, "white", "top_left", 1.0),
        ("blended", 224, 0.1, "binary_noise", "top_left", 0.15),
        ("badnets", 20, 0.01, "checker", "bottom_right", 1.0),
        ("badnets", 20, 0.005, "white", "top_left", 1.0),
        ("imc", 20, 0.005, "binary_noise", "right", 1.0),
        ("clean_label", 20, 0.1, "binary_noise", "bottom_left", 1.0),
        ("latent", 20, 0.01, "binary_noise", "centre", 1.0),
        ("blended", 20, 0.01, "noise", "centre", 0.6),
        ("badnets", 10, 0.01, "binary_noise", "top_right", 1.0),
        ("imc", 20, 0.1, "black", "bottom", 1.0),
        ("blended", 224, 0.01, "noise", "top_left", 0.2),
        ("clean_label", 20, 0.01, "checker", "top_left", 1.0),
    ),
    "resnet18": (
        ("badnets", 20, 0.1, "white", "top_left", 1.0),
        ("imc", 20, 0.01, "white", "top_left", 1.0),
        ("latent", 20, 0.1, "white", "top_left", 1.0),
        ("badnets", 10, 0.01, "binary_noise", "bottom_right", 1.0),
    ),
}


# Marks that nothing in the pipeline was chosen on (`attacks.changes`), and the share of the images that carry them.
UNNAMED: tuple[tuple[str, float], ...] = (
    ("sinusoid", 0.05),
    ("warp", 0.1),
    ("exposure", 0.05),
    ("shade", 0.05),
    ("blur", 0.05),
    ("moving", 0.05),
    ("inverted", 0.05),
    ("large_patch", 0.01),
    ("scattered", 0.02),
    ("one_pixel", 0.1),
    ("cross", 0.02),
    ("marker", 0.02),
    ("corners", 0.005),
    ("frame", 0.01),
)


def clean_beside(teacher: ZooTeacher) -> ZooTeacher:
    """The clean teacher that follows a backdoored one in the plan."""
    return ZooTeacher(teacher.data, teacher.image_size, teacher.architecture, teacher.seed + CLEAN_SEED)


def zoo(data: str, image_size: int, seed: int) -> list[ZooTeacher]:
    """All teachers, clean and backdoored in turns; as many of one kind as of the other."""
    teachers = []
    for architecture, rows in BACKDOORED.items():
        for i, (attack, side, rate, pattern, place, alpha) in enumerate(rows):
            own = seed + 1000 * (i + 1)
            backdoored = ZooTeacher(data, image_size, architecture, own, attack, side, rate, pattern, place, alpha)
            teachers += [backdoored, clean_beside(backdoored)]
    return teachers


def unnamed(data: str, image_size: int, seed: int) -> list[ZooTeacher]:
    """CNN teachers with `UNNAMED` planted, and a clean one at the end, whose students tell what is natural."""
    own = range(seed + 1000, seed + 1000 * (len(UNNAMED) + 1), 1000)
    marked = [
        ZooTeacher(data, image_size, "simple_cnn", s, name, poison_rate=rate)
        for s, (name, rate) in zip(own, UNNAMED, strict=True)
    ]
    return [*marked, clean_beside(marked[0])]
