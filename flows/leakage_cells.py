"""The work of the leakage table's cells: one model, asked through each kind of answer, by each attack."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flows.private_cells import drawn_owners
from flows.private_xray_cells import figures
from flows.study_cells import hardware, study_data, teacher_of
from tasks.backdoor.drill import student_of
from tasks.backdoor.study.cells import TeacherCell
from tasks.data.dataset import Dataset
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, features, logits
from tasks.params import Privacy, Training
from tasks.privacy.accounting import delta_for, noise_for
from tasks.privacy.answers import ANSWERS, limited
from tasks.privacy.art_black_box import leakage_accuracy
from tasks.privacy.attack import choose_records
from tasks.privacy.attribute import infer_attribute
from tasks.privacy.extraction import extract
from tasks.privacy.inversion import invert, nearest
from tasks.privacy.label_only import AMOUNTS, COPIES, label_only_scores
from tasks.privacy.scoring import membership_advantage
from tasks.privacy.stacks import Walks, train_stacks
from tasks.privacy.study import SYNTHEA
from tasks.privacy.tuning.bench import UNCLIPPED, schedule

VERSION = "3"  # raise it when a change of the code changes figures
LEAST = 1e-6  # of a score, for its logarithm
PICTURES = 8  # inverted for each class
PIXEL_NOISE = (0.05, 0.1, 0.2, 0.4)  # in standard deviations of a pixel over the images: more drowns every picture
ATTRIBUTES = ("female", "hispanic", "married", "Diabetes", "Hypertension")


@dataclass(frozen=True)
class XrayLeakage:
    """A student whose features are all trained, without privacy. Sections of params.yaml as JSON."""

    teacher: TeacherCell
    judge: TeacherCell  # whose student says what an inverted picture shows
    privacy: str
    recipe: str
    budgets: tuple[int, ...]  # of queries

    @property
    def model(self) -> str:
        return "student on X-rays, no privacy"

    @property
    def seed(self) -> int:
        return self.teacher.seed

    @property
    def name(self) -> str:
        return f"{self.teacher.name}'s student"


@dataclass(frozen=True)
class TableLeakage:
    """The study's network on the Synthea-like set, without privacy (`epsilon` 0) or with it."""

    data: str
    folder: str
    epsilon: float
    seed: int
    budgets: tuple[int, ...]

    @property
    def model(self) -> str:
        return f"network on the Synthea-like set, {f'ε = {self.epsilon:g}' if self.epsilon else 'no privacy'}"

    @property
    def name(self) -> str:
        return f"{self.model}, seed {self.seed}"


def work(cell: XrayLeakage | TableLeakage) -> dict[str, Any]:
    rows = _xray(cell) if isinstance(cell, XrayLeakage) else _table(cell)
    return {"rows": rows, "hardware": hardware()}


def _row(attack: str, answer: str, figure: str, value: float, baseline: float | None = None) -> dict[str, Any]:
    return {
        "attack": attack, "answer": answer, "figure": figure, "value": round(float(value), 6),
        "baseline": None if baseline is None else round(float(baseline), 6),
    }  # fmt: skip


def _xray(cell: XrayLeakage) -> list[dict[str, Any]]:
    section, recipe = Privacy.model_validate_json(cell.privacy), Training.model_validate_json(cell.recipe)
    teacher, seed, task = teacher_of(cell.teacher).model, cell.teacher.seed, study_data(cell.teacher.data)[1]
    classes, images = len(task.classes), np.array(task.images)
    parts = task.part("train"), task.part("val")
    student, judge = (
        student_of(t, classes, *parts, recipe, policy="all", seed=s)
        for t, s in ((teacher, seed), (teacher_of(cell.judge).model, cell.judge.seed))
    )
    raw, probability = features(teacher, images), torch.softmax(logits(student, images), 1).numpy()
    own, test = np.flatnonzero(task.split == "val"), np.flatnonzero(task.split == "test")
    rows = []
    for answer in ANSWERS:
        said = limited(probability, answer)
        output = torch.from_numpy(np.log(said.clip(LEAST))).float()
        found = figures(task, output, raw, section, seed)
        strongest = found["attacks"][found["strongest"]]["membership_advantage"]["value"]
        without = found["attacks"]["features_only"]["membership_advantage"]["value"]
        rows.append(_row("membership", answer, "advantage of the strongest attack", strongest, without))
        rows += _extracted(raw, said, probability.argmax(1), own, test, cell.budgets, answer, seed=seed)
    return rows + _label_only_xray(student, task, section, seed) + _inverted(student, judge, task, seed)


def _label_only_xray(student: Classifier, task: Dataset, section: Privacy, seed: int) -> list[dict[str, Any]]:
    sample = choose_records(task.split, task.labels, limit=section.attack_images, seed=seed)
    attacked = sample.rows[: len(sample.is_member)]
    pictures = as_float(np.array(task.images[attacked])).numpy()

    def said(flat: np.ndarray) -> np.ndarray:
        return logits(student, torch.from_numpy(flat.reshape(pictures.shape)).float()).argmax(1).numpy()

    records = pictures.reshape(len(pictures), -1)
    scores = label_only_scores(said, records, task.labels[attacked], amounts=PIXEL_NOISE, copies=COPIES, seed=seed)
    return [_label_only(scores, sample.is_member, len(PIXEL_NOISE), seed)]


def _label_only(scores: np.ndarray, is_member: np.ndarray, amounts: int, seed: int) -> dict[str, Any]:
    found = membership_advantage(scores, is_member, seed=seed).value
    return _row(
        "membership, label only", "labels", f"advantage with {amounts * COPIES + 1} questions a record", found, 0.0
    )


def _inverted(student: Classifier, judge: Classifier, task: Dataset, seed: int) -> list[dict[str, Any]]:
    """Inversion sees the weights; what it makes is judged by another teacher's student."""
    _, channels, side, _ = task.images.shape
    shown, nearer = [], []
    for c in range(len(task.classes)):
        pictures = invert(student, c, channels=channels, side=side, count=PICTURES, seed=seed)
        shown.append(float((logits(judge, pictures).argmax(1) == c).float().mean()))
        near = [nearest(pictures, _of_class(task, part, c)) for part in ("train", "test")]
        nearer.append(float((near[0] < near[1]).mean()))
    return [
        _row("inversion", "weights", "pictures that another model takes for their class", mean(shown), 1 / len(shown)),
        _row("inversion", "weights", "pictures nearer to training images than to as many others", mean(nearer), 0.5),
    ]  # fmt: skip


def _of_class(task: Dataset, part: str, c: int) -> np.ndarray:
    """As many images of one class and split as the smaller split has, so that distances compare."""
    count = min(int(((task.split == p) & (task.labels == c)).sum()) for p in ("train", "test"))
    return np.array(task.images[np.flatnonzero((task.split == part) & (task.labels == c))[:count]])


def _extracted(
    x: Tensor, said: np.ndarray, truth: np.ndarray, own: np.ndarray, test: np.ndarray, budgets: tuple[int, ...],
    answer: str, *, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Agreement with the victim on the test part, beside that of its most frequent answer."""
    own = np.random.default_rng(seed).permutation(own)
    always = float(np.bincount(truth[test]).max() / len(test))
    rows = []
    for budget in budgets:
        asked = own[: min(budget, len(own))]
        copy = extract(x[asked], said[asked])
        agreed = float((copy(x[test]) == truth[test]).mean())
        rows.append(_row(f"extraction, {budget} queries", answer, "agreement", agreed, always))
    return rows


def _table(cell: TableLeakage) -> list[dict[str, Any]]:
    recipe, (table, owners) = SYNTHEA["sgd"], drawn_owners(cell.folder, cell.seed)
    rate, steps = schedule(len(owners.train[1]), recipe.batch_size, recipe.epochs)
    clip, noise = UNCLIPPED, 0.0
    if cell.epsilon:
        delta = delta_for(len(owners.train[1]))
        clip, noise = 1.0, noise_for(cell.epsilon, sample_rate=rate, steps=steps, delta=delta)
    walks = Walks(*(np.array([v]) for v in (clip, noise, recipe.learning_rate)))
    net = train_stacks(
        *owners.train, walks, classes=2, hidden=recipe.hidden, sample_rate=rate, steps=steps, seed=cell.seed
    )

    def ask(x: np.ndarray) -> np.ndarray:
        return torch.softmax(net(torch.from_numpy(x))[0], 1).numpy()

    members, others, known = (
        (p[0].numpy(), p[1].numpy()) for p in (owners.train, owners.test, owners.unseen)
    )  # fmt: skip
    # Members against as many held-out records of the same owner: nothing but the model tells them apart.
    rng, each = np.random.default_rng(cell.seed), len(others[1])
    chosen = rng.permutation(len(members[1]))[:each]
    x, y = np.concatenate([members[0][chosen], others[0]]), np.concatenate([members[1][chosen], others[1]])
    is_member = np.arange(2 * each) < each
    everything = np.concatenate([known[0], others[0]])
    whole = ask(everything)
    queries, test = np.arange(len(known[1])), len(known[1]) + np.arange(each)
    named = [i for i, name in enumerate(table.features) if name.split("=")[0] in ATTRIBUTES]
    columns = [c for c in named if all(len(np.unique(p[0][:, c])) == 2 for p in (members, others, known))]
    rows = []
    for answer in ANSWERS:

        def through(records: np.ndarray, how: Any = answer) -> np.ndarray:
            return limited(ask(records), how)

        leaked = leakage_accuracy(through(x), y, is_member, seed=cell.seed)
        rows.append(_row("membership", answer, "accuracy of the study's attack", leaked, 0.5))
        found = [infer_attribute(through, members, others, known, column=c) for c in columns]
        rows.append(
            _row(
                "attribute inference", answer, "balanced accuracy on members, mean over columns",
                mean(f.members for f in found), mean(f.others for f in found),
            )
        )  # fmt: skip
        parts = torch.from_numpy(everything), limited(whole, answer), whole.argmax(1), queries, test
        rows += _extracted(*parts, cell.budgets, answer, seed=cell.seed)
    scores = label_only_scores(lambda r: ask(r.astype(np.float32)).argmax(1), x, y, copies=COPIES, seed=cell.seed)
    rows.append(_label_only(scores, is_member, len(AMOUNTS), cell.seed))
    blind = mean(f.without_the_model for f in found)
    return [*rows, _row("attribute inference", "none", "balanced accuracy on members without the model", blind)]
