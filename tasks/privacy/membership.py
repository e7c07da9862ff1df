"""Membership inference: was this record in the training data? A score a record, higher for "yes".

The loss threshold asks how well the model knows the record (Yeom 2018). The likelihood ratio (LiRA, Carlini 2022, its
offline variant) asks how much better than models that never saw it. The features-only baseline does not ask the model
at all: what it finds is a difference between the two samples, not memory.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tasks.errors import GatehouseError


def logit_confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)) of the true class, from logits of shape (…, n, classes); shape (…, n).

    About normal over models, unlike p itself (Carlini 2022, section IV.C), and exact where p rounds to 1.
    """
    n, classes = logits.shape[-2:]
    z = np.moveaxis(np.asarray(logits, float), -1, 0)
    true = np.take_along_axis(z, np.broadcast_to(labels, z.shape[1:])[None], 0)[0]
    others = np.where(np.arange(classes).reshape(-1, *[1] * (z.ndim - 1)) == labels.reshape(1, n), -np.inf, z)
    return true - np.logaddexp.reduce(others, 0)


def loss_scores(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Minus the cross-entropy of each record, shape (n,): one threshold for all records."""
    return loss_scores_of(logit_confidence(logits, labels))


def loss_scores_of(confidence: np.ndarray) -> np.ndarray:
    """The same from scaled logits."""
    # softplus of minus the scaled logit is the cross-entropy; this form keeps digits that 1 − p has lost
    return -np.logaddexp(0.0, -confidence)


def unseen_confidence(confidence: np.ndarray, included: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of each record's scaled logit over the references that did not learn from it, and one shared deviation.

    Args:
        confidence: shape (references, n).
        included: bool, the same shape: which reference learnt from which record.

    With few references a deviation for each record is noise, so it is pooled over records (Carlini 2022, section VI.A).
    """
    out = ~included
    count = out.sum(0)
    if not len(included) or count.min() < 1:
        raise GatehouseError(
            "Some record was in the training half of every reference model; raise privacy.references to 2 or more."
        )
    mean = np.where(out, confidence, 0.0).sum(0) / count
    freedom = int((count - 1).sum())
    squares = float((np.where(out, confidence - mean, 0.0) ** 2).sum())
    return mean, max(float(np.sqrt(squares / freedom)) if freedom else 1.0, 1e-6)


def likelihood_ratio_scores(
    confidence: np.ndarray,
    mean: np.ndarray,
    deviation: float,
    *,
    known_unseen: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """How many deviations the candidate's confidence lies above that of models that never saw it, shape (n,).

    It orders records as the paper's Pr[N(mean, deviation²) ≤ confidence] does, but never rounds to 1.

    Args:
        confidence: the candidate's scaled logits, shape (n,).
        mean, deviation: of the references' (`unseen_confidence`).
        known_unseen: candidate's confidence and references' mean on records that the attacker knows to be unseen.
            Where the references follow another recipe than the candidate, the line through these pairs translates.
    """
    if known_unseen is not None:
        slope, offset = line(known_unseen[1], known_unseen[0])
        mean = offset + slope * mean
    return (confidence - mean) / deviation


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the least-squares line of y over x; a flat line where x does not vary."""
    spread = x - x.mean()
    norm = float((spread**2).sum())
    slope = float((spread * (y - y.mean())).sum()) / norm if norm > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def features_only_scores(features: np.ndarray, labels: np.ndarray, is_member: np.ndarray, *, seed: int) -> np.ndarray:
    """Cross-validated guess of membership from a record's features and label alone, shape (n,), without any model."""
    inputs = np.hstack([features, np.eye(int(labels.max()) + 1)[labels]])
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    guess = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    return cross_val_predict(guess, inputs, is_member, cv=folds, method="predict_proba")[:, 1]


def balanced_sample(
    member_labels: np.ndarray, other_labels: np.ndarray, *, limit: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of members and of non-members to attack: the same number of each class on both sides.

    Args:
        limit: at most so many on each side; small classes are taken whole and the others share what is left.

    Raises:
        GatehouseError: fewer than two classes, or fewer than 20 records, have rows on both sides.
    """
    rng = np.random.default_rng(seed)
    common = np.intersect1d(member_labels, other_labels)
    room = {int(c): int(min((member_labels == c).sum(), (other_labels == c).sum())) for c in common}
    if len(room) < 2:
        raise GatehouseError(
            "Membership inference needs at least two classes with training and test images; check the student's data."
        )
    take = dict.fromkeys(room, 0)
    left = min(limit, sum(room.values()))
    for rank, c in enumerate(sorted(room, key=lambda c: (room[c], c))):
        take[c] = min(room[c], left // (len(room) - rank))
        left -= take[c]
    if sum(take.values()) < 20:
        raise GatehouseError(
            f"Membership inference found {sum(take.values())} records a side and needs 20; raise "
            "privacy.attack_images or data.test_fraction."
        )

    def rows(labels: np.ndarray) -> np.ndarray:
        return np.sort(
            np.concatenate([rng.choice(np.flatnonzero(labels == c), k, replace=False) for c, k in take.items()])
        )

    return rows(member_labels), rows(other_labels)
