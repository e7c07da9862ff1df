"""Figures against independent references: scikit-learn, the definition, and cases whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

from tasks.errors import GatehouseError
from tasks.models import figures
from tasks.models.metrics import balanced_accuracy, calibration_error, evaluate, macro_auc, temperature
from tasks.models.training import Epoch

CLASSES = ("normal", "covid", "viral")


def outputs(n: int, *, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, the softmax of them, and labels drawn from that softmax: calibrated at sharpness 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 3))
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(3, p=p) for p in truth])
    sharp = logits * sharpness
    return sharp, np.exp(sharp) / np.exp(sharp).sum(1, keepdims=True), labels


def test_figures_are_scikit_learns() -> None:
    _, p, y = outputs(400, seed=0)
    report = evaluate(p, y, CLASSES, seed=0)
    assert report["n"] == 400
    assert report["accuracy"]["value"] == pytest.approx((p.argmax(1) == y).mean(), abs=1e-6)
    assert report["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(y, p.argmax(1)), abs=1e-6)
    assert report["auc"]["value"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=1e-6)
    assert report["confusion"]["counts"] == confusion_matrix(y, p.argmax(1)).tolist()
    for name in ("accuracy", "balanced_accuracy", "auc", "calibration_error"):
        assert report[name]["low"] < report[name]["value"] < report[name]["high"], name
    for i, name in enumerate(CLASSES):
        assert report["recall"][name]["value"] == pytest.approx((p.argmax(1)[y == i] == i).mean(), abs=1e-6)
    assert report == evaluate(p, y, CLASSES, seed=0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
def test_every_figure_lies_in_its_range_however_few_images(seed: int, n: int) -> None:
    _, p, y = outputs(n, seed=seed)
    report = evaluate(p, y, CLASSES, seed=seed)
    shown = [report[k] for k in ("accuracy", "balanced_accuracy", "auc", "calibration_error")]
    for figure in [*shown, *(r for r in report["recall"].values() if r)]:
        assert all(v is None or 0 <= v <= 1 for v in figure.values())
    assert sum(map(sum, report["confusion"]["counts"])) == n


def test_a_class_that_is_absent_has_no_recall() -> None:
    _, p, y = outputs(60, seed=1)
    kept = y != 2
    report = evaluate(p[kept], y[kept], CLASSES, seed=0)
    assert report["recall"]["viral"] is None
    only = y == 0
    assert evaluate(p[only], y[only], CLASSES, seed=0)["auc"]["value"] is None
    assert np.isnan(macro_auc(p[only], y[only]))
    assert np.isnan(balanced_accuracy(np.array([], int), np.array([], int)))


def test_no_image_or_no_number_is_refused() -> None:
    _, p, y = outputs(10, seed=0)
    with pytest.raises(GatehouseError, match="no image to evaluate"):
        evaluate(p[:0], y[:0], CLASSES, seed=0)
    p[3, 1] = np.nan
    with pytest.raises(GatehouseError, match="not all finite"):
        evaluate(p, y, CLASSES, seed=0)


def test_calibration_error_of_known_cases() -> None:
    y = np.array([0] * 80 + [1] * 20)
    confident = np.tile([0.95, 0.05], (100, 1))
    assert calibration_error(confident, y) == pytest.approx(0.15)
    honest = np.tile([0.8, 0.2], (100, 1))
    assert calibration_error(honest, y) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.tile([1.0, 0.0], (100, 1)), y) == pytest.approx(0.2)  # the last bin holds 1


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_finds_how_much_too_sharp_outputs_are(sharpness: float) -> None:
    logits, _, y = outputs(4000, seed=2, sharpness=sharpness)
    assert temperature(logits, y) == pytest.approx(sharpness, rel=0.08)


def test_figures_are_small_pngs_and_the_same_every_time(tmp_path: Path) -> None:
    _, p, y = outputs(200, seed=0)
    history = [Epoch(i, 1 / (i + 1), 1.2 / (i + 1), 0.5 + i / 20, 100.0 * i) for i in range(6)]
    for name in ("a", "b"):
        folder = tmp_path / name
        figures.learning_curve(folder / "curve.png", history, best=4)
        figures.confusion_matrix(folder / "confusion.png", confusion_matrix(y, p.argmax(1)), CLASSES)
        figures.reliability(folder / "reliability.png", p, y)
    for path in (tmp_path / "a").iterdir():
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert 3_000 < len(data) < 150_000
        assert data == (tmp_path / "b" / path.name).read_bytes()
