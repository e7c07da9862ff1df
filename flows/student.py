"""The teacher becomes the student: a new head, and as many trainable blocks as the drill found safe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from flows.stage import Context, main
from tasks.data.dataset import Dataset, load_dataset
from tasks.data.inspection import inspect
from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.models import figures
from tasks.models.architectures import Classifier, ModelSpec, new_head
from tasks.models.checkpoints import ModelRecord, load_model, save_model
from tasks.models.freezing import trainable_blocks
from tasks.models.guards import new_guard
from tasks.models.inference import features, logits, require_finite
from tasks.models.metrics import calibration_error, evaluate, temperature
from tasks.models.training import Epoch, fit
from tasks.params import FreezePolicy, Student

TEACHER = Path("models/teacher")
DATA = Path("data/student_task")
DRILL = Path("reports/drill.json")
STUDENT = Path("models/trained/student")
REPORT = Path("reports/student.json")
PLOTS = Path("reports/plots")
FIGURES = Path("reports/figures/student")
CHECKPOINT = Path(".gatehouse/checkpoints/student.safetensors")


def student(context: Context) -> None:
    """Train the student from the teacher (section student), evaluate it on the test split, inspect its data."""
    section, seed = context.params.student, context.params.run.seed
    model, teacher = load_model(TEACHER)
    data = load_dataset(DATA)
    check_input(teacher.spec, data)
    policy, reason = freeze_policy(section, read_json(DRILL) if section.freeze == "drill" else {}, model)
    new_head(model, len(data.classes), seed=seed)
    context.say(f"{teacher.spec.architecture}, trainable features: {policy} ({reason})")

    started = time.monotonic()

    def progress(epoch: Epoch) -> None:
        text = f"epochs, {epoch.images_per_second:.0f} images/s, validation accuracy {epoch.val_accuracy:.3f}"
        context.progress(epoch.epoch + 1, section.epochs, text)

    history = fit(
        model,
        data.part("train"),
        data.part("val"),
        section,
        policy=policy,
        seed=seed,
        checkpoint=CHECKPOINT,
        progress=progress,
    )
    seconds = time.monotonic() - started
    spec = teacher.spec.model_copy(update={"classes": data.classes, "guard": section.guard})
    model.guard = new_guard(section.guard, spec.image_size, seed=seed)
    record = save_model(
        STUDENT,
        model,
        spec,
        parents={"teacher": teacher.sha256, "student_task": data.sha256},
        notes={"freeze": str(policy), "freeze_reason": reason},
    )
    report = _report(model, data, record, history, policy, reason, seed)
    write_json(REPORT, report)
    _forget_checkpoint()
    figure = report["accuracy"]
    context.say(
        f"accuracy {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] on {report['n']} test images, "
        f"{len(history)} epochs in {seconds:.0f} s"
    )
    # Speed differs from run to run: it goes to MLflow, never into a file that DVC compares.
    context.metrics(
        {name: report[name]["value"] for name in ("accuracy", "balanced_accuracy", "auc", "calibration_error")}
        | {"epochs": len(history), "images_per_second": float(np.median([e.images_per_second for e in history]))}
        | {"seconds": seconds, "suspicious_training_images": len(report["inspection"]["suspicious"])}
    )


def check_input(spec: ModelSpec, data: Dataset) -> None:
    """Raises GatehouseError where the teacher takes other images than the data set holds."""
    _, channels, side, _ = data.images.shape
    if (channels, side) != (spec.channels, spec.image_size):
        raise GatehouseError(
            f"{TEACHER} takes images of {spec.channels} channel(s) and {spec.image_size} pixels, but {DATA} holds "
            f"{channels} and {side}; set data.channels and data.image_size in params.yaml to the teacher's."
        )


def freeze_policy(section: Student, drill: dict[str, Any], model: Classifier) -> tuple[FreezePolicy, str]:
    """Which features train, and why: as params.yaml fixes it, or as the drill measured."""
    if section.freeze != "drill":
        policy: FreezePolicy = section.freeze
        reason = "fixed by student.freeze in params.yaml"
    else:
        try:
            policy, reason = drill["freeze"]["policy"], str(drill["freeze"]["reason"])
        except (KeyError, TypeError):
            raise GatehouseError(f"{DRILL} names no freeze policy; run the drill stage again.") from None
        if policy not in ("all", "last", "none") and not isinstance(policy, int):
            raise GatehouseError(
                f"{DRILL} names the freeze policy {policy!r}, which is none; run the drill stage again."
            )
    trainable_blocks(model, policy)  # a number of blocks must be one that this model has
    return policy, reason


def _report(
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
    output = require_finite(logits(model, images), source=str(STUDENT))
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


def _forget_checkpoint() -> None:
    """The result is written: remove the checkpoint, and what a killed run may have left beside it."""
    CHECKPOINT.unlink(missing_ok=True)
    for left in CHECKPOINT.parent.glob(f".{CHECKPOINT.name}.*.partial"):
        left.unlink(missing_ok=True)


if __name__ == "__main__":
    main("student", student)
