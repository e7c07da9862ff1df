"""What drift must see in images: brightness, another scanner, an untaught class; the same kind again it must not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tasks.data.phantom import draw
from tasks.models.architectures import ModelSpec, build
from tasks.models.inference import probabilities
from tasks.models.training import fit
from tasks.monitoring.drift import Drift, compare
from tasks.params import load_params
from tasks.serving.statistics import STATISTICS, image_statistics

KNOWN = ("normal", "covid")
SIDE = 32


@pytest.fixture(scope="module")
def student(project):  # type: ignore[no-untyped-def]
    """A student of two of the phantom's three classes; figures of images and its answers, by column."""
    drawn = draw("covid", 900, SIDE, 7)
    labels = np.array(drawn.labels)
    own = np.isin(labels, KNOWN)
    x, y = drawn.images[own][:, None], np.array([KNOWN.index(label) for label in labels[own]], np.int64)
    model = build(ModelSpec(architecture="simple_cnn", classes=KNOWN, image_size=SIDE), seed=1)
    recipe = load_params(project / "params.yaml").student.recipe().undefended().model_copy(update={"epochs": 8})
    fit(model, (x[:500], y[:500]), (x[500:], y[500:]), recipe, policy="all", seed=1)

    def columns(images: np.ndarray) -> dict[str, np.ndarray]:
        figures, scores = image_statistics(images.astype(np.float32) / 255), probabilities(model, images).numpy()
        named = dict(zip(STATISTICS, figures.T, strict=True))
        return {**named, "score": np.round(scores.max(1), 2), "label": np.array(KNOWN)[scores.argmax(1)]}

    return columns


@pytest.fixture(scope="module")
def fresh() -> tuple[np.ndarray, np.ndarray]:
    """Images of patients that the student has not seen: of its own classes, and of another."""
    drawn = draw("covid", 1600, SIDE, 8)
    own = np.isin(np.array(drawn.labels), KNOWN)
    return drawn.images[own][:, None], drawn.images[~own][:, None]


def byte(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def scanner(x: np.ndarray) -> np.ndarray:
    """Another curve, softer, noisier."""
    soft = gaussian_filter((x / 255) ** 1.3, (0, 0, 0.6, 0.6))
    return byte(255 * soft + np.random.default_rng(0).normal(0, 5, x.shape))


def seen(student, reference: np.ndarray, current: np.ndarray) -> Drift:  # type: ignore[no-untyped-def]
    return compare(student(reference), student(current), allowed_share=0.1)


def test_brightness_and_another_scanner_are_found(student, fresh) -> None:  # type: ignore[no-untyped-def]
    own, _ = fresh
    assert seen(student, own[:400], byte(own[400:600] + 20.0)).drifted
    assert seen(student, own[:400], byte(own[400:600] - 20.0)).drifted
    found = seen(student, own[:400], scanner(own[400:600]))
    assert found.drifted
    assert "edge_energy" in [s.name for s in found.statistics if s.drifted]


def test_a_new_class_is_found_by_how_it_is_answered(student, fresh) -> None:  # type: ignore[no-untyped-def]
    own, other = fresh
    found = seen(student, own[:400], other[:200])
    assert found.drifted
    assert {s.name for s in found.statistics if s.drifted} & {"score", "label"}


def test_the_same_kind_again_is_not(student, fresh) -> None:  # type: ignore[no-untyped-def]
    """200 draws of reference and requests; 2 % is asked, of which 9 alarms would be one in thirty."""
    own, _ = fresh
    columns, rng = student(own), np.random.default_rng(3)
    alarms = 0
    for _ in range(200):
        order = rng.permutation(len(own))
        parts = ({k: v[o] for k, v in columns.items()} for o in (order[:400], order[400:600]))
        alarms += compare(*parts, allowed_share=0.1).drifted
    assert alarms <= 8
