"""Everything the checks of one candidate look at: its card, its bytes, and what could be loaded of them safely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes
from tasks.models.architectures import Classifier, build
from tasks.models.checkpoints import check_tensors
from tasks.models.inference import logits
from tasks.stats import clopper_pearson
from tasks.teachers import formats
from tasks.teachers.advisories import Advisories
from tasks.teachers.card import Offer
from tasks.teachers.loading import UnsafeFileError, read_tensors
from tasks.teachers.names import to_classifier_names


@dataclass(frozen=True)
class Rules:
    """What the user accepts. `trusted_keys` are fingerprints; `advisories` is None where no file was given."""

    trusted_keys: frozenset[str]
    licences_accepted: tuple[str, ...]
    min_accuracy: float
    advisories: Advisories | None = None


@dataclass(frozen=True)
class OwnTask:
    """The teacher's task as our own data have it: uint8 test images (n, channels, side, side) and labels (n,)."""

    classes: tuple[str, ...]
    channels: int
    image_size: int
    manifest_sha256: str
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Accuracy:
    """Share of our own test images of the teacher's task that it gets right, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Case:
    """One candidate, examined. A later field is None where an earlier one made looking further unsafe or pointless."""

    offer: Offer
    rules: Rules
    task: OwnTask
    sha256: str | None = None  # of the weights file; None: there is no such file
    found_format: str | None = None
    tensors: dict[str, Tensor] | None = None  # under our architectures' names
    load_error: str = ""  # why there are no tensors
    model: Classifier | None = None
    model_error: str = ""  # why there is no model
    accuracy: Accuracy | None = None  # None: no usable model, no test images, or classes other than our own

    @property
    def digest_matches(self) -> bool:
        return self.sha256 == self.offer.card.sha256


def open_case(offer: Offer, rules: Rules, task: OwnTask) -> Case:
    """Read the weights file once and go as far as is safe: digest, format, tensors, model.

    A file of another digest or of another format than its card's is not given to any loader.
    """
    known: dict[str, Any] = {}
    try:
        data = offer.weights.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return Case(offer, rules, task, load_error=f"{offer.weights} does not exist.")
    known["sha256"] = sha256_bytes(data)
    known["found_format"] = formats.detect(data)
    if known["sha256"] != offer.card.sha256:
        return Case(offer, rules, task, **known, load_error="Not loaded, since the digest differs.")
    try:
        tensors = read_tensors(data, offer.card.format, source=str(offer.weights))
    except UnsafeFileError as error:
        return Case(offer, rules, task, **known, load_error=str(error))
    known["tensors"] = to_classifier_names(offer.card.architecture, tensors)
    try:
        known["model"] = _model(offer, task, known["tensors"])
    except GatehouseError as error:
        known["model_error"] = str(error)
    else:
        known["accuracy"] = _accuracy(known["model"], offer, task)
    return Case(offer, rules, task, **known)


def _model(offer: Offer, task: OwnTask, tensors: dict[str, Tensor]) -> Classifier:
    # Gray images go into any network; otherwise the card's depth stands, and the check of inputs says what is wrong.
    channels = task.channels if task.channels == 1 else offer.card.channels
    model = build(offer.card.spec(channels=channels, image_size=task.image_size), seed=0)
    # Names, shapes and types only: whether the values are finite is a check of its own.
    check_tensors(model, {k: torch.zeros_like(v) for k, v in tensors.items()}, source=str(offer.weights))
    model.load_state_dict(tensors)
    return model.eval()


def _accuracy(model: Classifier, offer: Offer, task: OwnTask) -> Accuracy | None:
    names = offer.card.class_names
    finite = all(bool(torch.isfinite(p).all()) for p in model.state_dict().values())
    fits = task.channels in (1, offer.card.channels)
    if not finite or not fits or set(names) != set(task.classes) or not len(task.labels):
        return None
    order = [names.index(c) for c in task.classes]
    right = logits(model, task.images)[:, order].argmax(1).numpy() == task.labels
    low, high = clopper_pearson(int(right.sum()), len(right))
    return Accuracy(float(np.mean(right)), low, high, len(right))
