"""The attacks of the privacy gate on one model, all from the same reference models: a score for each record."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from tasks.privacy.membership import likelihood_ratio_scores, line, loss_scores_of, unseen_confidence
from tasks.privacy.ratios import online_ratio_scores, rmia_scores

ATTACKS = ("loss_threshold", "likelihood_ratio", "online_likelihood_ratio", "rmia")


def membership_scores(
    candidate: np.ndarray, references: np.ndarray, included: np.ndarray, *, target: np.ndarray, known: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores of the attacked records by attack, each of shape (targets,), higher for "yes".

    References follow another recipe than the candidate. The line through what both say of records that the attacker
    knows to be unseen translates what references say into what the candidate would.

    Args:
        candidate: its scaled logits (`membership.logit_confidence`) of the rows below, shape (rows,).
        references: the same of the references, shape (references, rows).
        included: bool, the same shape: which reference learnt from which record.
        target, known: row numbers of the attacked records, and of those known to be unseen.
    """
    mean, deviation = unseen_confidence(references, included)
    slope, offset = line(mean[known], candidate[known])
    translated = offset + slope * references
    probability, marginal = expit(candidate), expit(translated).mean(0)
    return {
        "loss_threshold": loss_scores_of(candidate[target]),
        "likelihood_ratio": likelihood_ratio_scores(
            candidate[target], mean[target], deviation, known_unseen=(candidate[known], mean[known])
        ),
        "online_likelihood_ratio": online_ratio_scores(candidate[target], translated[:, target], included[:, target]),
        "rmia": rmia_scores(probability[target], marginal[target], probability[known], marginal[known]),
    }
