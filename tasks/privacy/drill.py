"""The privacy gate put to the test: heads that memorised their records by our doing, and heads that saw none of them.

Each head is attacked and judged as the candidate is, on as many records: a planted head must fail a check, a clean one
must pass both. All of it happens on cached features of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.errors import GatehouseError
from tasks.gate import Drill
from tasks.privacy.gate_attacks import membership_scores
from tasks.privacy.heads import random_halves, train_heads
from tasks.privacy.membership import logit_confidence
from tasks.privacy.scoring import attack_checks, membership_advantage, tpr_at_fpr

HEADS = 6  # of each kind
LEAST_ELSEWHERE = 20
HIDDEN, STEPS = 64, 100
WRONG_LABELS = 0.25  # share of records whose label is drawn anew, so that they can only be learnt by heart


@dataclass(frozen=True)
class DrilledHead:
    """One head of the drill and what the attacks found on it."""

    planted: bool
    membership_advantage: float
    tpr_at_1_fpr: float
    accused: bool


def run_drill(
    attacked: tuple[Tensor, np.ndarray],
    elsewhere: tuple[Tensor, np.ndarray],
    *,
    classes: int,
    references: int,
    advantage_threshold: float,
    tpr_threshold: float,
    seed: int,
) -> tuple[Drill, tuple[DrilledHead, ...]]:
    """Plant memory in heads on half of the attacked records, and train clean heads on records from elsewhere.

    Args:
        attacked: features, shape (n, width), and labels of the records that the candidate was attacked on.
        elsewhere: the same of records that are none of these: clean heads learn from half of them, and the other half
            are what the attacker knows to be unseen.
        references: reference heads of the likelihood ratio, as for the candidate.

    Raises:
        GatehouseError: too few records elsewhere.
    """
    rng = np.random.default_rng(seed)
    here, there = len(attacked[1]), len(elsewhere[1])
    if there < LEAST_ELSEWHERE:
        raise GatehouseError(
            f"The privacy drill needs {LEAST_ELSEWHERE} records beside those attacked and has {there}; "
            "lower privacy.attack_images or add records."
        )
    features = torch.cat([attacked[0], elsewhere[0]])
    labels = np.concatenate([attacked[1], elsewhere[1]])
    target, taught, known = _rows(here, there, rng)
    halves = random_halves(2 * HEADS, here, seed=seed)  # whom each head counts as members
    included = random_halves(references, len(labels), seed=seed + 1)  # what the reference heads learn from
    found = []
    for planted in (True, False):
        truth = _relabel(labels, classes, rng) if planted else labels
        learnt = np.zeros((HEADS, len(labels)), bool)
        if planted:
            learnt[:, target] = halves[:HEADS]
        else:
            learnt[:, taught] = random_halves(HEADS, len(taught), seed=seed + 2)
        y = torch.from_numpy(truth)
        heads = train_heads(
            features,
            y,
            learnt,
            classes=classes,
            hidden=HIDDEN,
            steps=STEPS,
            learning_rate=0.02,
            weight_decay=0.0,
            seed=seed + planted,
        )
        reference = train_heads(features, y, included, classes=classes, seed=seed + 3)
        theirs = logit_confidence(reference(features).numpy(), truth)
        for output, members in zip(heads(features).numpy(), halves[:HEADS] if planted else halves[HEADS:], strict=True):
            confidence = logit_confidence(output, truth)
            scores = membership_scores(confidence, theirs, included, target=target, known=known)
            found.append(_judge(planted, scores, members, advantage_threshold, tpr_threshold, seed))
    return (
        Drill(
            planted=HEADS,
            caught=sum(h.accused for h in found if h.planted),
            clean=HEADS,
            accused=sum(h.accused for h in found if not h.planted),
        ),
        tuple(found),
    )


def _judge(
    planted: bool, scores: dict[str, np.ndarray], members: np.ndarray, advantage: float, tpr: float, seed: int
) -> DrilledHead:
    checks = attack_checks(
        {name: membership_advantage(s, members, seed=seed) for name, s in scores.items()},
        {name: tpr_at_fpr(s, members, 0.01) for name, s in scores.items()},
        n=len(members),
        advantage_threshold=advantage,
        tpr_threshold=tpr,
    )
    return DrilledHead(
        planted=planted,
        membership_advantage=float(checks[0].observed or 0.0),
        tpr_at_1_fpr=float(checks[1].observed or 0.0),
        accused=any(c.status == "failed" for c in checks),
    )


def _rows(here: int, there: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of the attacked records, of those that clean heads learn from, and of those known to be unseen."""
    rest = here + rng.permutation(there)
    return np.arange(here), np.sort(rest[: there // 2]), np.sort(rest[there // 2 :])


def _relabel(labels: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """A share `WRONG_LABELS` of the labels drawn anew from all classes."""
    drawn = rng.integers(0, classes, len(labels))
    return np.where(rng.random(len(labels)) < WRONG_LABELS, drawn, labels).astype(np.int64)
