"""What is measured on a finished student, and its plots and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.dataset import Dataset
from tasks.data.inspection import inspect
from tasks.files import write_json
from tasks.models import figures
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import ModelRecord
from tasks.models.inference import features, logits, require_finite
from tasks.models.metrics import calibration_error, evaluate, temperature
from tasks.models.training import Epoch
from tasks.params import FreezePolicy

PLOTS = Path("reports/plots")
FIGURES = Path("reports/figures/student")


def measured(
    model: Classifier,
    data: Dataset,
    record: ModelRecord,
    history: list[Epoch],
    policy: FreezePolicy,
    reason: str,
    seed: int,
) -> dict[str, Any]:
    """Everything that is measured on the finished student; plots and figures are written on the way."""
    images, labels = data.part("test")
    output = require_finite(logits(model, images), source="the student")
    probabilities = output.softmax(1).numpy()
    figures_of_test = evaluate(probabilities, labels, data.classes, seed=seed)
    best = min(history, key=lambda e: (e.val_loss, e.epoch)).epoch
    _plots(history, best, probabilities, labels, figures_of_test, data.classes)
    val_images, val_labels = data.part("val")
    heat = temperature(logits(model, val_images).numpy(), val_labels)
    train_images, train_labels = data.part("train")
    inspected = inspect(features(model, train_images).numpy(), train_labels, data.classes, seed)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        **figures_of_test,
        "sha256": record.sha256,
        "freeze": {"policy": policy, "reason": reason},
        "epochs": len(history),
        "best_epoch": best + 1,
        "parameters": {
            "trainable": trainable,
            "frozen": sum(p.numel() for p in model.parameters()) - trainable,
        },
        "images": {split: int((data.split == split).sum()) for split in ("train", "val", "test")},
        # Reported, not applied: what one temperature, fitted on the validation split, would do to the calibration.
        "temperature": {
            "value": round(heat, 4),
            "calibration_error_after": round(calibration_error((output / heat).softmax(1).numpy(), labels), 6),
        },
        "inspection": inspected.record(),
    }


def _plots(
    history: list[Epoch],
    best: int,
    probabilities: np.ndarray,
    labels: np.ndarray,
    report: dict[str, Any],
    classes: tuple[str, ...],
) -> None:
    curve = [
        {
            "epoch": e.epoch + 1,
            "loss": round(e.loss, 6),
            "val_loss": round(e.val_loss, 6),
            "val_accuracy": round(e.val_accuracy, 6),
        }
        for e in history
    ]
    predicted = probabilities.argmax(1)
    rows = [{"actual": classes[a], "predicted": classes[p]} for a, p in zip(labels, predicted, strict=True)]
    write_json(PLOTS / "learning_curve.json", curve)
    write_json(PLOTS / "confusion.json", rows)
    figures.learning_curve(FIGURES / "learning_curve.png", history, best=best)
    figures.confusion_matrix(FIGURES / "confusion.png", np.array(report["confusion"]["counts"]), classes)
    figures.reliability(FIGURES / "reliability.png", probabilities, labels)
