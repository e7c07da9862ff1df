"""A student whose head is learnt with differential privacy, on the teacher's frozen features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flows.stage import Context, main
from tasks.data.dataset import Dataset, load_dataset
from tasks.errors import GatehouseError
from tasks.files import write_json
from tasks.models.checkpoints import load_model, save_model
from tasks.models.inference import features, require_finite
from tasks.models.metrics import evaluate
from tasks.privacy.accounting import advantage_ceiling, delta_for, epsilon, noise_for
from tasks.privacy.claim import HEAD, POISSON
from tasks.privacy.dp_sgd import UNCLIPPED, Plan, batches, train_head, with_head
from tasks.privacy.noise import noise_seed, project_secret
from tasks.privacy.whitening import whitening

TEACHER = Path("models/teacher")
PUBLIC = Path("data/teacher_task")
DATA = Path("data/student_task")
OUT = Path("models/trained/private_student")
REPORT = Path("reports/private_student.json")


def private_student(context: Context) -> None:
    """Train a head by DP-SGD to privacy.target_epsilon, evaluate it beside the same head without privacy."""
    section, seed = context.params.privacy, context.params.run.seed
    model, teacher = load_model(TEACHER)
    data, public = load_dataset(DATA), load_dataset(PUBLIC)
    (images, labels), (test_images, test_labels) = data.part("train"), data.part("test")
    if images.shape[1:] != (teacher.spec.channels, teacher.spec.image_size, teacher.spec.image_size):
        raise GatehouseError(
            f"{TEACHER} takes images of {teacher.spec.channels} channel(s) and {teacher.spec.image_size} pixels, but "
            f"{DATA} holds {images.shape[1]} and {images.shape[2]}; set data.channels and data.image_size to its own."
        )
    sample_rate, steps = batches(len(labels), section.batch_size, section.epochs)
    delta = delta_for(len(labels), section.target_delta)
    noise = noise_for(section.target_epsilon, sample_rate=sample_rate, steps=steps, delta=delta)
    plan = Plan(sample_rate, steps, section.learning_rate, section.max_grad_norm, noise)
    spent = epsilon(noise_multiplier=noise, sample_rate=sample_rate, steps=steps, delta=delta)
    ceiling = advantage_ceiling(noise_multiplier=noise, sample_rate=sample_rate, steps=steps)
    context.say(
        f"noise multiplier {noise:.4g} over {steps} steps of rate {sample_rate:.3g}: ε = {spent:.3f}, δ = {delta:.2g}"
    )

    whiten = whitening(features(model, public.part("train")[0]))
    x = whiten(require_finite(features(model, images), source=str(TEACHER)))
    x_test, y = features(model, test_images), torch.from_numpy(labels)
    # Everything that decides the weights goes into the seed, so that no noise is ever used for two models.
    inputs = (str(seed), data.sha256, public.sha256, teacher.sha256, repr(plan), repr(delta))

    def progress(done: int, total: int) -> None:
        if done % max(total // 5, 1) == 0:
            context.progress(done, total, "private steps")

    def train(how: Plan, which: str) -> nn.Linear:
        return whiten.fold(
            train_head(
                x,
                y,
                classes=len(data.classes),
                plan=how,
                seed=noise_seed(project_secret(), which, *inputs),
                progress=progress if how is plan else None,
            )
        )

    def figures(head: nn.Linear) -> dict[str, Any]:
        return evaluate(_probabilities(head, x_test), test_labels, data.classes, seed=seed)

    open_head = train(replace(plan, max_grad_norm=UNCLIPPED, noise_multiplier=0.0), "without privacy")
    head = train(plan, "private")
    record = save_model(
        OUT,
        with_head(model, head),
        teacher.spec.model_copy(update={"classes": data.classes}),
        parents={"teacher": teacher.sha256, "student_task": data.sha256, "teacher_task": public.sha256},
        notes={"epsilon": f"{spent:.6g}", "delta": f"{delta:.6g}", "noise_multiplier": f"{noise:.6g}"},
    )
    report = {
        **figures(head),
        "sha256": record.sha256,
        "epsilon": round(spent, 6),
        "delta": delta,
        "noise_multiplier": noise,
        "sample_rate": sample_rate,
        "steps": steps,
        "max_grad_norm": section.max_grad_norm,
        "records": len(labels),
        "images_of_one_person": _most_of_one_person(data),
        "advantage_ceiling": round(ceiling, 6),
        "accountant": "PLD (dp_accounting), Poisson sampling, neighbours differ by one record more or less",
        "sampler": POISSON,
        "trainable": HEAD,
        "without_privacy": figures(open_head),
    }
    write_json(REPORT, report)
    own, other = report["accuracy"], report["without_privacy"]["accuracy"]
    context.say(
        f"accuracy {own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}] at ε = {spent:.2f}, "
        f"{other['value']:.3f} without privacy; no attack has an advantage above {ceiling:.2f}"
    )
    context.metrics(
        {
            "epsilon": spent,
            "noise_multiplier": noise,
            "accuracy": own["value"],
            "balanced_accuracy": report["balanced_accuracy"]["value"],
            "accuracy_without_privacy": other["value"],
            "advantage_ceiling": ceiling,
        }
    )


def _most_of_one_person(data: Dataset) -> int | None:
    """The largest number of training images of one person (group); None where no group is known."""
    if "group" not in data.manifest:
        return None
    groups = data.manifest["group"].to_numpy(str)[data.split == "train"]
    counts = np.unique(groups[groups != ""], return_counts=True)[1]
    return int(counts.max()) if len(counts) else None


@torch.no_grad()
def _probabilities(head: nn.Linear, x: Tensor) -> Any:
    return head(x).softmax(1).numpy()


if __name__ == "__main__":
    main("private_student", private_student)
