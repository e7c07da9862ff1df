"""The study's own membership attack (6.2.2): ART's black box, a forest and a network that learn from known members.

Half of the members and half of the others teach the attack's model; it is judged on the rest. It sees what the model
answers and the true label.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch

from tasks.errors import GatehouseError
from tasks.models.metrics import balanced_accuracy

Kind = Literal["rf", "nn"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEAST = 20  # members, and others


def black_box_scores(
    probability: np.ndarray, labels: np.ndarray, is_member: np.ndarray, *, kind: Kind, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of membership of the records that the attack did not learn from.

    Args:
        probability: the model's answers, shape (n, classes).
        labels: true class indices, shape (n,).
        is_member: bool, shape (n,), the truth.
        kind: a random forest, or ART's network.

    Returns:
        Scores, and the row numbers that they belong to.

    Raises:
        GatehouseError: fewer than `LEAST` members or others.
    """
    from art.attacks.inference.membership_inference import MembershipInferenceBlackBox
    from art.estimators.classification import BlackBoxClassifier

    if min(int(is_member.sum()), int((~is_member).sum())) < LEAST:
        raise GatehouseError(
            f"The black-box attack needs {LEAST} members and {LEAST} others to learn from and be judged."
        )
    rng = np.random.default_rng(seed)
    taught = np.zeros(len(labels), bool)
    for side in (is_member, ~is_member):
        rows = rng.permutation(np.flatnonzero(side))
        taught[rows[: len(rows) // 2]] = True
    classes = probability.shape[1]
    asked = BlackBoxClassifier(lambda _: probability, input_shape=(classes,), nb_classes=classes)
    attack = MembershipInferenceBlackBox(asked, attack_model_type=kind)
    if kind == "rf":  # ART asks a forest that it is given whether it is true, which fails before it is fitted
        attack.attack_model.set_params(random_state=seed)
    answers, known, others = probability.astype(np.float32), taught & is_member, taught & ~is_member
    held = np.flatnonzero(~taught)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", category=FutureWarning)
        torch.manual_seed(seed)
        attack.fit(y=labels[known], test_y=labels[others], pred=answers[known], test_pred=answers[others])
        found = attack.infer(x=None, y=labels[held], pred=answers[held], probabilities=True)
    return np.asarray(found, float).reshape(len(held), -1)[:, -1], held


def leakage_accuracy(
    probability: np.ndarray, labels: np.ndarray, is_member: np.ndarray, *, kinds: Sequence[Kind] = KINDS, seed: int
) -> float:
    """The study's privacy loss p: the best of the attacks' balanced accuracies, in [0, 1], .5 is guessing."""

    def accuracy(kind: Kind) -> float:
        scores, rows = black_box_scores(probability, labels, is_member, kind=kind, seed=seed)
        return balanced_accuracy(scores > 0.5, is_member[rows])

    return max(accuracy(kind) for kind in kinds)
