"""All membership attacks on one candidate: which records, which scores, what they are worth, who is exposed most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.data.dataset import stratified
from tasks.errors import GatehouseError
from tasks.gate import Frozen
from tasks.privacy.gate_attacks import ATTACKS, membership_scores
from tasks.privacy.heads import random_halves, train_heads
from tasks.privacy.membership import balanced_sample, features_only_scores, logit_confidence
from tasks.privacy.scoring import AttackFigures, Figure, auc_figure, measure, membership_advantage, worst

LEAST_KNOWN = 20
LEAST_OF_CLASS = 10  # records a side below which a class gets no figures of its own


@dataclass(frozen=True)
class Sample:
    """Rows of the data set, by what the attack does with them; all disjoint."""

    members: np.ndarray  # attacked, in the candidate's training split
    non_members: np.ndarray  # attacked, in its test split
    known: np.ndarray  # validation split: the attacker knows that the candidate did not train on them
    spare: np.ndarray  # the rest of training and test; reference heads learn from these too

    @property
    def rows(self) -> np.ndarray:
        """All rows in one order: attacked members, attacked non-members, known, spare."""
        return np.concatenate([self.members, self.non_members, self.known, self.spare])

    @property
    def is_member(self) -> np.ndarray:
        """Of the attacked records, bool (n,)."""
        return np.arange(len(self.members) + len(self.non_members)) < len(self.members)


class Subgroup(Frozen):
    """How exposed the records of one class are, to the strongest attack."""

    name: str
    n_members: int
    n_non_members: int
    auc: Figure
    membership_advantage: Figure


class CandidateFigures(Frozen):
    """Attacks that ask the model, the baseline that does not, and classes from most to least exposed."""

    attacks: tuple[AttackFigures, ...]
    baseline: AttackFigures
    subgroups: tuple[Subgroup, ...]
    train_accuracy: float
    test_accuracy: float
    reference_accuracy: float  # of the reference heads on records that they did not learn from

    @property
    def strongest(self) -> AttackFigures:
        return self.attacks[worst([a.membership_advantage for a in self.attacks])]


def choose_records(split: np.ndarray, labels: np.ndarray, *, limit: int, seed: int) -> Sample:
    """Records to attack, `limit` a side at most, and at most as many known and spare ones as are attacked in all."""
    rows = {name: np.flatnonzero(split == name) for name in ("train", "val", "test")}
    m, u = balanced_sample(labels[rows["train"]], labels[rows["test"]], limit=limit, seed=seed)
    members, non_members = rows["train"][m], rows["test"][u]
    spare = np.setdiff1d(np.concatenate([rows["train"], rows["test"]]), np.concatenate([members, non_members]))
    most = len(members) + len(non_members)
    if len(rows["val"]) < LEAST_KNOWN:
        raise GatehouseError(
            f"Membership inference needs {LEAST_KNOWN} validation images, which the attacker knows to be unseen, and "
            f"there are {len(rows['val'])}; raise data.val_fraction or add images."
        )
    return Sample(members, non_members, _thin(rows["val"], labels, most, seed), _thin(spare, labels, most, seed))


def _thin(rows: np.ndarray, labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    return stratified(rows, labels[rows], limit, seed) if len(rows) > limit else rows


def attack_candidate(
    sample: Sample,
    logits: np.ndarray,
    features: Tensor,
    labels: np.ndarray,
    *,
    classes: tuple[str, ...],
    references: int,
    seed: int,
) -> CandidateFigures:
    """Run every attack.

    Args:
        logits: the candidate's on the attacked and the known records, in the order of `sample.rows`, (n, classes).
        features: the teacher's of all records of the sample, shape (rows, width).
        labels: true class indices of all records of the sample, shape (rows,).
        references: reference heads, each trained on a random half of the sample's records.
    """
    is_member = sample.is_member
    target = np.arange(len(is_member))
    known = len(is_member) + np.arange(len(sample.known))
    confidence = logit_confidence(logits, labels[: len(logits)])
    included = random_halves(references, len(labels), seed=seed)
    heads = train_heads(features, torch.from_numpy(labels), included, classes=len(classes), seed=seed)
    outputs = heads(features).numpy()
    asked = slice(len(logits))
    scores = membership_scores(
        confidence, logit_confidence(outputs, labels)[:, asked], included[:, asked], target=target, known=known
    )
    attacks = tuple(measure(name, scores[name], is_member, seed=seed) for name in ATTACKS)
    strongest = ATTACKS[worst([a.membership_advantage for a in attacks])]
    right = logits[target].argmax(1) == labels[target]
    unaware = features_only_scores(features[target].numpy(), labels[target], is_member, seed=seed)
    return CandidateFigures(
        attacks=attacks,
        baseline=measure("features_only", unaware, is_member, seed=seed),
        subgroups=_subgroups(scores[strongest], is_member, labels[target], classes, seed),
        train_accuracy=round(float(right[is_member].mean()), 6),
        test_accuracy=round(float(right[~is_member].mean()), 6),
        reference_accuracy=round(float((outputs.argmax(-1) == labels)[~included].mean()), 6),
    )


def _subgroups(
    scores: np.ndarray, is_member: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], seed: int
) -> tuple[Subgroup, ...]:
    found = []
    for index, name in enumerate(classes):
        own = labels == index
        members, others = int((own & is_member).sum()), int((own & ~is_member).sum())
        if min(members, others) < LEAST_OF_CLASS:
            continue
        found.append(
            Subgroup(
                name=name,
                n_members=members,
                n_non_members=others,
                auc=auc_figure(scores[own], is_member[own], seed=seed),
                membership_advantage=membership_advantage(scores[own], is_member[own], seed=seed),
            )
        )
    return tuple(sorted(found, key=lambda s: -s.membership_advantage.value))


def in_words(figures: CandidateFigures, ceiling: float | None) -> str:
    """One sentence on what an attacker gains over guessing about one patient.

    Args:
        ceiling: proven bound of the membership advantage, where the candidate has one.
    """
    advantage = figures.strongest.membership_advantage
    sentence = (
        "Whoever must say whether one given record was in the training data, where half of those asked about were, is "
        f"right 50 times in 100 by guessing, {right_in_100(advantage.value)} times with the strongest attack measured "
        f"here (up to {right_in_100(advantage.high)} by its interval)"
    )
    if ceiling is None:
        return sentence + "; attacks that were not run may do better."
    return sentence + f"; no attack at all can be right more than {right_in_100(ceiling)} times, which is proven."


def right_in_100(advantage: float) -> int:
    """Right answers in 100 at this advantage, where members and non-members are equally likely."""
    return round(50 + 50 * advantage)
