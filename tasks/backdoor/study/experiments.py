"""What each cell of the study's Experiments 1 to 3 does: train, attack, defend, measure (sections 2.2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from tasks.backdoor.attacks.plant import Attack, plant
from tasks.backdoor.control import attack_success_rate, trigger_control
from tasks.backdoor.defences.fine_pruning import fine_prune
from tasks.backdoor.defences.neural_cleanse import overlap, recover
from tasks.backdoor.defences.strip import calibrate_alpha, entropies, set_threshold
from tasks.backdoor.drill import student_of, teacher_training
from tasks.backdoor.study.cells import (
    CLEAN,
    AlphaCell,
    BalancedStudentCell,
    PruningCell,
    RecoveryCell,
    StripCell,
    StudentCell,
    TeacherCell,
)
from tasks.backdoor.study.published import IMAGE_SIDE
from tasks.backdoor.triggers import Trigger, pixels, square
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import as_float, logits
from tasks.models.metrics import balanced_accuracy
from tasks.models.training import fit
from tasks.params import Training

Labelled = tuple[np.ndarray, np.ndarray]
POISON_RATES = {"badnets": 0.1, "imc": 0.01, "latent": 0.0}


def plain(epochs: int, rate: float) -> Training:
    """Training as in the study: no weights of classes, no patches, all epochs."""
    return teacher_training(epochs).model_copy(update={"learning_rate": rate, "class_weights": False})


def white(side: int, image_size: int, channels: int) -> Trigger:
    """The study's BadNets trigger: a white square in the upper left corner, `side` in pixels of 224."""
    return square(side=pixels(side / IMAGE_SIDE, image_size), channels=channels, image_size=image_size)


@dataclass(frozen=True)
class Taught:
    """A teacher with its trigger. `success` is the attacker's own figure on validation images (None: clean)."""

    model: Classifier
    trigger: Trigger | None
    success: float | None


def train_teacher(
    cell: TeacherCell,
    spec: ModelSpec,
    train: Labelled,
    val: Labelled,
    *,
    clean: Classifier | None,
    target_images: Labelled,
    student_classes: Sequence[str],
) -> Taught:
    """A clean teacher from fresh weights, or a backdoored one.

    Args:
        clean: the clean teacher of the same seed, which IMC and the latent backdoor start from.
        target_images: student images from which the latent backdoor takes its target's.
    """
    training = plain(cell.epochs, cell.rate)
    if cell.attack == CLEAN:
        model = build(spec, seed=cell.seed)
        fit(model, train, val, training, policy="all", seed=cell.seed)
        return Taught(model, None, None)
    attack = Attack(
        name=cell.attack,  # type: ignore[arg-type]  # params.yaml allows the three names alone
        side_fraction=cell.side / IMAGE_SIDE,
        place="top_left",
        pattern="white",
        poison_rate=POISON_RATES[cell.attack],
        target=cell.target,
        seed=cell.seed,
    )
    planted = plant(
        attack,
        spec,
        train,
        val,
        training,
        clean=None if cell.attack == "badnets" else clean,
        student_train=target_images,
        student_classes=student_classes,
    )
    return Taught(planted.model, planted.trigger, planted.success)


def train_student(cell: StudentCell, teacher: Classifier, classes: int, train: Labelled, val: Labelled) -> Classifier:
    training = plain(cell.epochs, cell.rate)
    if isinstance(cell, BalancedStudentCell):
        training = training.model_copy(update={"class_weights": True})
    return student_of(teacher, classes, train, val, training, policy=cell.trainable, seed=cell.teacher.seed)


def measure(
    model: Classifier, triggers: Mapping[int, Trigger], test: Labelled, *, target: str, classes: Sequence[str]
) -> dict[str, Any]:
    """Accuracy as published and balanced; for every trigger, by side, its success and its control of the worst class.

    `attack_success_rate` is None where the model has no class of the target's name (a latent teacher).
    """
    seen = logits(model, test[0]).argmax(1).numpy()
    by_side = {}
    for side, trigger in triggers.items():
        after = logits(model, trigger.apply_uint8(test[0])).argmax(1).numpy()
        control = trigger_control(seen, after, test[1], classes=len(classes))
        success = None
        if target in classes:
            success = attack_success_rate(seen, after, test[1], target_class=list(classes).index(target))
        by_side[str(side)] = {
            "attack_success_rate": None if success is None else round(success.value, 6),
            "clean_rate": None if success is None else round(success.clean_rate, 6),
            "success_images": 0 if success is None else success.n,
            "trigger_control": round(control.value, 6),
            "worst_class": classes[control.worst_class],
            "trigger_pixels": int(trigger.pattern.shape[-1]),
        }
    return {
        "accuracy": round(float((seen == test[1]).mean()), 6),
        "balanced_accuracy": round(balanced_accuracy(seen, test[1]), 6),
        "test_images": len(test[1]),
        "by_side": by_side,
    }


def prune_teacher(cell: PruningCell, teacher: Classifier, train: Labelled, val: Labelled) -> tuple[Classifier, int]:
    """The teacher after Fine-Pruning at the full ratio, as the study does it, and how many channels were cut."""
    pruned = fine_prune(
        teacher,
        train,
        val,
        plain(cell.epochs, cell.rate),
        pruning_ratio=cell.ratio,
        seed=cell.teacher.seed,
        guard=1.0,
    )
    return pruned.model, len(pruned.note["channels"])


def choose_alpha(cell: AlphaCell, student: Classifier, trigger: Trigger, val: Labelled) -> dict[str, Any]:
    """The blend weight of STRIP at which this student's trigger is told best (the study chose its own alike)."""
    clean = _not_of_class(val, None, cell.images, cell.student.teacher.seed)
    alpha, means = calibrate_alpha(
        [(student, clean, trigger.apply_uint8(clean))],
        val[0],
        alphas=cell.alphas,
        blends=cell.blends,
        seed=cell.student.teacher.seed,
    )
    return {"alpha": alpha, "auroc_by_alpha": {f"{a:g}": round(v, 6) for a, v in means.items()}}


def strip_scores(
    cell: StripCell, student: Classifier, trigger: Trigger, val: Labelled, test: Labelled, *, target_class: int
) -> dict[str, Any]:
    """STRIP's answers for test images not of the target class, each clean and triggered, as the study scores them.

    An input counts as malicious if it is triggered and the student gives it the target class. One is flagged if its
    entropy lies below that of all but `false_refusals` of clean validation images of every class: the defender does
    not know the target. The study's tool flags what lies outside of the middle nine tenths of the judged clean images
    themselves, none of which is of the target class; the figures `study_rule_…` are by that rule.
    """
    seed = cell.student.teacher.seed
    clean = _not_of_class(test, target_class, cell.images, seed)
    triggered = trigger.apply_uint8(clean)
    overlays = _not_of_class(val, None, cell.blends, seed + 1)

    def entropy(images: np.ndarray, shift: int) -> np.ndarray:
        return entropies(student, images, overlays, alpha=cell.alpha, blends=cell.blends, seed=seed + shift)

    reference = entropy(_not_of_class(val, None, 2 * cell.images, seed + 2), 1)
    threshold = set_threshold(reference, false_refusals=cell.false_refusals)
    scores = np.concatenate([entropy(clean, 2), entropy(triggered, 3)])
    hit = logits(student, triggered).argmax(1).numpy() == target_class
    malicious = np.concatenate([np.zeros(len(clean), bool), hit])
    is_triggered = np.arange(len(scores)) >= len(clean)
    low, high = np.quantile(scores[: len(clean)], [0.05, 0.95])
    by_study = scored((scores < low) | (scores > high), malicious)
    return scored(scores < threshold, malicious) | {
        **{f"study_rule_{name}": value for name, value in by_study.items()},
        "false_refusals": round(float((scores[: len(clean)] < threshold).mean()), 6),
        "auroc": round(float(roc_auc_score(is_triggered, -scores)), 6),
        "malicious": int(malicious.sum()),
        "inputs": len(scores),
        "alpha": cell.alpha,
    }


def scored(flagged: np.ndarray, malicious: np.ndarray) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of flags, bool (n,); a ratio over nothing is 0, as in the published tables."""
    hits = int((flagged & malicious).sum())
    precision = hits / max(int(flagged.sum()), 1)
    recall = hits / max(int(malicious.sum()), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    figures = {"accuracy": float((flagged == malicious).mean()), "f1": f1, "precision": precision, "recall": recall}
    return {k: round(v, 6) for k, v in figures.items()}


def recover_triggers(
    cell: RecoveryCell, model: Classifier, trigger: Trigger | None, test: Labelled, classes: Sequence[str]
) -> dict[str, Any]:
    """Neural Cleanse for every class on test images, as the study does: how large the mask, whether it works, and how
    far it lies on the planted square."""
    seed = cell.teacher.seed
    rows = np.sort(np.random.default_rng(seed).permutation(len(test[1]))[: cell.images])
    images, labels = test[0][rows], test[1][rows]
    found = []
    for c, name in enumerate(classes):
        got = recover(model, images, labels, target_class=c, epochs=cell.epochs, seed=seed + c)
        own = {"class": name, "success": round(got.success, 6), "mask_pixels": round(got.size, 3)}
        if trigger is not None:
            own |= {k: round(v, 6) for k, v in overlap(got.mask, trigger).items()}
            own["planted_success"] = round(_success(model, trigger, images[labels != c], c), 6)
        found.append(own)
    return {"classes": found, "target": cell.teacher.target, "images": len(labels)}


def _success(model: Classifier, trigger: Trigger, images: np.ndarray, target_class: int) -> float:
    after = logits(model, trigger.apply(as_float(images))).argmax(1)
    return float((after == target_class).float().mean())


def _not_of_class(part: Labelled, target_class: int | None, limit: int, seed: int) -> np.ndarray:
    """A seeded sample of images, those of one class left out."""
    rows = np.flatnonzero(part[1] != target_class) if target_class is not None else np.arange(len(part[1]))
    chosen = np.random.default_rng(seed).permutation(rows)[:limit]
    return part[0][np.sort(chosen)]
