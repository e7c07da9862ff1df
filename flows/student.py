"""The teacher becomes the student: a new head, and as many trainable blocks as the drill found safe."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.stage import Context, main
from flows.student_report import measured
from tasks.data.dataset import Dataset, load_dataset
from tasks.errors import GatehouseError
from tasks.evasion.defences import Defence, climb, kept
from tasks.evasion.gray_box import measure_gray_box
from tasks.evasion.sample import choose_sample
from tasks.files import read_json, sha256_bytes, write_json
from tasks.models.architectures import Classifier, ModelSpec, new_head
from tasks.models.checkpoints import load_model, save_model
from tasks.models.freezing import trainable_blocks
from tasks.models.guards import GuardName, new_guard
from tasks.models.training import Epoch, fit
from tasks.params import FreezePolicy, Student, Training

TEACHER = Path("models/teacher")
DATA = Path("data/student_task")
DRILL = Path("reports/drill.json")
STUDENT = Path("models/trained/student")
REPORT = Path("reports/student.json")
BUDGET, STEPS, ATTACKED = 8 / 255, 20, 140  # of the attack that defences are chosen by
CHECKPOINT = Path(".gatehouse/checkpoints/student.safetensors")


@dataclass(frozen=True)
class Made:
    """A trained student, guard and all, and how it came about."""

    model: Classifier
    spec: ModelSpec
    recipe: Training
    history: list[Epoch]


def student(context: Context) -> None:
    """Train the student from the teacher (section student), evaluate it on the test split, inspect its data."""
    section, seed = context.params.student, context.params.run.seed
    teacher, offered = load_model(TEACHER)
    data = load_dataset(DATA)
    check_input(offered.spec, data)
    policy, reason = freeze_policy(section, read_json(DRILL) if section.freeze == "drill" else {}, teacher)
    context.say(f"{offered.spec.architecture}, trainable features: {policy} ({reason})")
    started = time.monotonic()

    def make(recipe: Training, guard: GuardName) -> Made:
        spec = offered.spec.model_copy(update={"classes": data.classes, "guard": guard})
        return _train(context, teacher, data, spec, recipe, policy)

    def fooled(made: Made, defence: Defence) -> float:
        share = _fooled_through_teacher(context, teacher, made, data)
        context.say(f"{defence.title}: {share:.3f} of the validation images are fooled through the teacher")
        return share

    tried = climb(section.defences, lambda d: make(d.recipe(section), d.guard), fooled, section.defence_enough)
    made = kept(tried).made if tried else make(section, section.guard)
    seconds = time.monotonic() - started
    record = save_model(
        STUDENT,
        made.model,
        made.spec,
        parents={"teacher": offered.sha256, "student_task": data.sha256},
        notes={"freeze": str(policy), "freeze_reason": reason},
    )
    report = measured(made.model, data, record, made.history, policy, reason, seed)
    report["defences"] = {
        "tried": [{"name": t.name, "fooled_through_teacher": round(t.fooled, 6)} for t in tried],
        "enough": section.defence_enough,
        "kept": kept(tried).name if tried else None,
        "recipe": made.recipe.model_dump(mode="json", include=set(Training.model_fields)),
        "guard": made.spec.guard,
    }
    write_json(REPORT, report)
    _forget_checkpoints()
    figure = report["accuracy"]
    context.say(
        f"accuracy {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] on {report['n']} test images, "
        f"{len(made.history)} epochs in {seconds:.0f} s"
    )
    # Speed differs from run to run: it goes to MLflow, never into a file that DVC compares.
    context.metrics(
        {name: report[name]["value"] for name in ("accuracy", "balanced_accuracy", "auc", "calibration_error")}
        | {"epochs": len(made.history)}
        | {"images_per_second": float(np.median([e.images_per_second for e in made.history]))}
        | {"seconds": seconds, "suspicious_training_images": len(report["inspection"]["suspicious"])}
    )


def _train(
    context: Context, teacher: Classifier, data: Dataset, spec: ModelSpec, recipe: Training, policy: FreezePolicy
) -> Made:
    seed = context.params.run.seed
    model = new_head(copy.deepcopy(teacher), len(data.classes), seed=seed)

    def progress(epoch: Epoch) -> None:
        text = f"epochs, {epoch.images_per_second:.0f} images/s, validation accuracy {epoch.val_accuracy:.3f}"
        context.progress(epoch.epoch + 1, recipe.epochs, text)

    # A file for each recipe: a run that was killed while trying defences goes on with the one that it was at.
    checkpoint = CHECKPOINT.with_stem(f"student-{sha256_bytes(recipe.model_dump_json().encode())[:12]}")
    history = fit(
        model,
        data.part("train"),
        data.part("val"),
        recipe,
        policy=policy,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    model.guard = new_guard(spec.guard, spec.image_size, seed=seed)
    return Made(model, spec, recipe, history)


def _fooled_through_teacher(context: Context, teacher: Classifier, made: Made, data: Dataset) -> float:
    """Success of the best attack through the teacher at BUDGET, on half of some validation images.

    The other half is the attacker's own; the test images stay unseen until the gate.
    """
    seed = context.params.run.seed
    images, labels = data.part("val", limit=2 * ATTACKED, seed=seed)
    half = len(labels) // 2
    sample = choose_sample(made.model, images[:half], labels[:half], seed=seed, source="the student")
    found = measure_gray_box(
        teacher, made.model, sample, (images[half:], labels[half:]), made.recipe, budgets=(BUDGET,), steps=STEPS,
        seed=seed, bfloat16=True,
    )  # fmt: skip
    return max(rows[0]["value"] or 0.0 for rows in found.values())


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


def _forget_checkpoints() -> None:
    """The result is written: remove the checkpoints, and what a killed run may have left beside them."""
    for pattern in (f"{CHECKPOINT.stem}*", f".{CHECKPOINT.stem}*.partial"):
        for left in CHECKPOINT.parent.glob(pattern):
            left.unlink(missing_ok=True)


if __name__ == "__main__":
    main("student", student)
