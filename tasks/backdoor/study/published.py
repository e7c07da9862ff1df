"""Figures published in chapter 2.3 of "Security of AI-Systems: Fundamentals" (BSI), Tables 3 to 9, as printed there.

Keys name a cell as our own rows do; sides are in pixels of 224. Accuracy and success are means of ten runs, `sd` is the
standard deviation of the success rate.
"""

from __future__ import annotations

from dataclasses import dataclass

SIDES = (5, 10, 20)
IMAGE_SIDE = 224
RUNS = 10

Triple = tuple[float, float, float]  # accuracy, success, standard deviation of the success
Quadruple = tuple[float, float, float, float]  # accuracy, F1, precision, recall


@dataclass(frozen=True)
class Transfer:
    """A cell of Tables 3 to 7: accuracy of the model, attack success rate and its standard deviation."""

    accuracy: float
    mean: float
    sd: float


@dataclass(frozen=True)
class Filtered:
    """A cell of Tables 8 and 9: how well STRIP tells triggered images from clean ones."""

    accuracy: float
    f1: float
    precision: float
    recall: float


def _by_side(*cells: Triple) -> dict[int, Transfer]:
    return {side: Transfer(*cell) for side, cell in zip(SIDES, cells, strict=True)}


def _filtered(*cells: Quadruple) -> dict[int, Filtered]:
    return {side: Filtered(*cell) for side, cell in zip(SIDES, cells, strict=True)}


# (architecture, attack, trainable features) -> side -> figures; "none" as attack: clean students, a BadNets trigger
STUDENTS: dict[tuple[str, str, str], dict[int, Transfer]] = {
    # Table 3a
    ("resnet18", "badnets", "all"): _by_side((0.89, 0.01, 0.01), (0.92, 0.01, 0.02), (0.92, 0.01, 0.01)),
    ("resnet18", "badnets", "last"): _by_side((0.90, 0.10, 0.06), (0.91, 0.09, 0.05), (0.89, 0.08, 0.13)),
    ("resnet18", "badnets", "none"): _by_side((0.80, 0.66, 0.38), (0.79, 0.86, 0.13), (0.80, 0.76, 0.40)),
    ("resnet18", "imc", "all"): _by_side((0.92, 0.00, 0.01), (0.90, 0.01, 0.01), (0.88, 0.02, 0.02)),
    ("resnet18", "imc", "last"): _by_side((0.89, 0.18, 0.10), (0.91, 0.15, 0.13), (0.89, 0.19, 0.14)),
    ("resnet18", "imc", "none"): _by_side((0.80, 0.96, 0.07), (0.80, 0.85, 0.28), (0.80, 0.61, 0.35)),
    # Table 3b
    ("simple_cnn", "badnets", "all"): _by_side((0.76, 0.01, 0.01), (0.76, 0.02, 0.02), (0.79, 0.08, 0.07)),
    ("simple_cnn", "badnets", "last"): _by_side((0.81, 0.04, 0.02), (0.84, 0.16, 0.09), (0.81, 0.44, 0.12)),
    ("simple_cnn", "badnets", "none"): _by_side((0.70, 0.57, 0.09), (0.72, 0.91, 0.07), (0.72, 0.98, 0.03)),
    ("simple_cnn", "imc", "all"): _by_side((0.78, 0.01, 0.01), (0.77, 0.03, 0.03), (0.79, 0.20, 0.10)),
    ("simple_cnn", "imc", "last"): _by_side((0.76, 0.01, 0.01), (0.77, 0.64, 0.24), (0.78, 0.95, 0.04)),
    ("simple_cnn", "imc", "none"): _by_side((0.72, 0.01, 0.03), (0.72, 0.83, 0.12), (0.73, 1.00, 0.00)),
    # Table 4a
    ("resnet18", "none", "all"): _by_side((0.91, 0.02, 0.02), (0.91, 0.01, 0.02), (0.91, 0.01, 0.02)),
    ("resnet18", "none", "last"): _by_side((0.88, 0.01, 0.01), (0.88, 0.01, 0.01), (0.88, 0.01, 0.01)),
    ("resnet18", "none", "none"): _by_side((0.80, 0.00, 0.00), (0.80, 0.00, 0.00), (0.80, 0.01, 0.01)),
    # Table 4b
    ("simple_cnn", "none", "all"): _by_side((0.76, 0.00, 0.00), (0.76, 0.00, 0.00), (0.76, 0.03, 0.03)),
    ("simple_cnn", "none", "last"): _by_side((0.77, 0.01, 0.01), (0.77, 0.03, 0.02), (0.77, 0.07, 0.04)),
    ("simple_cnn", "none", "none"): _by_side((0.72, 0.01, 0.01), (0.72, 0.02, 0.02), (0.72, 0.03, 0.02)),
    # Table 5a
    ("resnet18", "latent", "all"): _by_side((0.89, 0.00, 0.00), (0.90, 0.01, 0.01), (0.92, 0.01, 0.01)),
    ("resnet18", "latent", "last"): _by_side((0.87, 0.12, 0.15), (0.90, 0.10, 0.10), (0.89, 0.12, 0.18)),
    ("resnet18", "latent", "none"): _by_side((0.81, 0.47, 0.36), (0.81, 0.53, 0.36), (0.81, 0.62, 0.35)),
    # Table 5b
    ("simple_cnn", "latent", "all"): _by_side((0.78, 0.00, 0.01), (0.82, 0.01, 0.02), (0.78, 0.30, 0.22)),
    ("simple_cnn", "latent", "last"): _by_side((0.79, 0.00, 0.00), (0.79, 0.20, 0.20), (0.78, 0.98, 0.07)),
    ("simple_cnn", "latent", "none"): _by_side((0.72, 0.00, 0.00), (0.74, 0.47, 0.42), (0.78, 1.00, 0.01)),
}

# (architecture, attack, defence) -> side -> figures. BadNets and IMC on the teacher, latent on the student of it.
PRUNED: dict[tuple[str, str, str], dict[int, Transfer]] = {
    # Table 6a
    ("resnet18", "badnets", "none"): _by_side((0.88, 0.97, 0.02), (0.88, 1.00, 0.00), (0.87, 1.00, 0.00)),
    ("resnet18", "badnets", "fine_pruning"): _by_side((0.80, 0.00, 0.00), (0.85, 0.01, 0.01), (0.84, 0.01, 0.01)),
    ("resnet18", "imc", "none"): _by_side((0.89, 1.00, 0.00), (0.89, 1.00, 0.01), (0.89, 1.00, 0.00)),
    ("resnet18", "imc", "fine_pruning"): _by_side((0.85, 0.00, 0.00), (0.81, 0.01, 0.02), (0.85, 0.01, 0.02)),
    # Table 6b
    ("resnet18", "latent", "none"): _by_side((0.81, 0.47, 0.36), (0.81, 0.53, 0.53), (0.81, 0.62, 0.35)),
    ("resnet18", "latent", "fine_pruning"): _by_side((0.82, 0.22, 0.16), (0.82, 0.20, 0.13), (0.81, 0.32, 0.24)),
    # Table 7a
    ("simple_cnn", "badnets", "none"): _by_side((0.76, 0.64, 0.13), (0.77, 0.91, 0.01), (0.79, 0.98, 0.00)),
    ("simple_cnn", "badnets", "fine_pruning"): _by_side((0.76, 0.00, 0.01), (0.77, 0.02, 0.01), (0.77, 0.07, 0.03)),
    ("simple_cnn", "imc", "none"): _by_side((0.79, 0.01, 0.00), (0.79, 0.66, 0.26), (0.79, 1.00, 0.00)),
    ("simple_cnn", "imc", "fine_pruning"): _by_side((0.75, 0.00, 0.00), (0.76, 0.04, 0.02), (0.75, 0.53, 0.17)),
    # Table 7b
    ("simple_cnn", "latent", "none"): _by_side((0.72, 0.00, 0.00), (0.74, 0.47, 0.41), (0.78, 1.00, 0.01)),
    ("simple_cnn", "latent", "fine_pruning"): _by_side((0.72, 0.00, 0.00), (0.73, 0.14, 0.24), (0.75, 0.51, 0.16)),
}

# (architecture, attack) -> side -> figures
STRIPPED: dict[tuple[str, str], dict[int, Filtered]] = {
    # Table 8
    ("resnet18", "badnets"): _filtered((0.61, 0.11, 0.22, 0.22), (0.53, 0.00, 0.02, 0.00), (0.64, 0.14, 0.21, 0.12)),
    ("resnet18", "imc"): _filtered((0.68, 0.46, 0.59, 0.41), (0.57, 0.09, 0.09, 0.08), (0.65, 0.05, 0.13, 0.03)),
    ("resnet18", "latent"): _filtered((0.70, 0.04, 0.09, 0.03), (0.69, 0.00, 0.02, 0.00), (0.62, 0.12, 0.28, 0.08)),
    # Table 9
    ("simple_cnn", "badnets"): _filtered((0.64, 0.15, 0.32, 0.10), (0.70, 0.57, 0.79, 0.46), (0.72, 0.64, 0.83, 0.53)),
    ("simple_cnn", "imc"): _filtered((0.83, 0.09, 0.10, 0.10), (0.66, 0.38, 0.60, 0.30), (0.94, 0.94, 0.92, 0.97)),
    ("simple_cnn", "latent"): _filtered((0.86, 0.11, 0.09, 0.13), (0.73, 0.17, 0.27, 0.16), (0.89, 0.87, 0.89, 0.87)),
}
