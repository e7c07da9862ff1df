"""Membership by likelihood ratios that need reference models on both sides, or a population to compare with.

The online attack of LiRA (Carlini 2022) asks whether the candidate is sure of a record as models are that learnt it, or
as those are that did not. RMIA (Zarifzadeh 2024) asks how many other records the candidate knows less well, each
measured against what references know of it; it needs few references.
"""

from __future__ import annotations

import numpy as np

from tasks.errors import GatehouseError
from tasks.privacy.membership import unseen_confidence

GAMMA = 2.0  # a record must be so many times as likely as another one to win against it
PRIOR_SLOPE = 0.3  # of the line that guesses what models with the record would have said, where there are none
LEAST_EACH = 1e-12


def online_ratio_scores(candidate: np.ndarray, confidence: np.ndarray, included: np.ndarray) -> np.ndarray:
    """log N(candidate; in) − log N(candidate; out) of each record, shape (n,).

    Args:
        candidate: its scaled logits (`membership.logit_confidence`), shape (n,).
        confidence: the references', shape (references, n).
        included: bool, the same shape: which reference learnt from which record; both kinds for each record.

    Deviations are pooled over records on either side, since few references give none for each (section VI.A).
    """
    outside, spread_out = unseen_confidence(confidence, included)
    inside, spread_in = unseen_confidence(confidence, ~included)

    def log_density(mean: np.ndarray, deviation: float) -> np.ndarray:
        return -0.5 * ((candidate - mean) / deviation) ** 2 - np.log(deviation)

    return log_density(inside, spread_in) - log_density(outside, spread_out)


def rmia_scores(
    candidate: np.ndarray, mean: np.ndarray, population: np.ndarray, population_mean: np.ndarray, *,
    gamma: float = GAMMA,
) -> np.ndarray:  # fmt: skip
    """Share of the population that each record beats by `gamma` or more, shape (n,), in [0, 1] (equation 9).

    Args:
        candidate: probability of the true class that the candidate gives to each attacked record, shape (n,).
        mean: of the same over references, with and without the record in equal parts (`marginal`).
        population, population_mean: the same of records that the candidate did not learn from, shape (z,).

    Raises:
        GatehouseError: an empty population.
    """
    if not len(population):
        raise GatehouseError("RMIA compares with records that are known to be unseen, and was given none.")
    own = candidate / np.maximum(mean, LEAST_EACH)
    others = np.sort(population / np.maximum(population_mean, LEAST_EACH))
    return np.searchsorted(others, own / gamma, side="right") / len(others)


def marginal(probability: np.ndarray, included: np.ndarray, *, slope: float = PRIOR_SLOPE) -> np.ndarray:
    """Mean probability of each record over models with and without it, from those without alone, shape (n,).

    Models that learnt a record are surer of it; offline, they are guessed by a line: (1 + a) p + (1 − a), halved, where
    p is the mean over references without the record (section 3.2 of the paper).

    Args:
        probability: of the true class, shape (references, n).
        included: bool, the same shape.
    """
    unseen, _ = unseen_confidence(probability, included)
    return 0.5 * ((1 + slope) * unseen + (1 - slope))
