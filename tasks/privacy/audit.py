"""A measured floor of ε from one training (Steinke 2023): many records at once, each in or out by the toss of a coin.

Whoever guesses those coins from the model better than ε allows has shown that ε is larger. The floor is what a measured
number of right guesses proves at the given confidence; the truth lies between it and the proven ceiling.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

from tasks.errors import GatehouseError

MOST = 20.0  # no audit of this many records tells larger ε apart


def guesses(scores: np.ndarray, included: np.ndarray, *, share: float) -> tuple[int, int]:
    """Right guesses and guesses: the `share` of records with the highest scores are called in, the lowest out.

    Args:
        scores: shape (records,), higher for "in".
        included: bool (records,), the coins.
        share: of the records on either side, in (0, 0.5]; fixed before the coins are seen.
    """
    if not 0 < share <= 0.5:
        raise GatehouseError(f"The share of records to guess on either side must lie in (0, 0.5], not {share:g}.")
    each = max(1, int(len(scores) * share))
    order = np.argsort(scores, kind="stable")
    right = int((~included[order[:each]]).sum() + included[order[-each:]].sum())
    return right, 2 * each


def epsilon_floor(right: int, guessed: int, records: int, *, delta: float, confidence: float = 0.95) -> float:
    """The largest ε that so many right guesses refute at `delta` with that confidence; at least 0 (theorem 5.2).

    Args:
        right, guessed: of the guesses, abstentions left out.
        records: all whose coin was tossed. Several trainings on coins of their own may be added up: each coin is seen
            by one of them alone.
    """
    if not 0 <= right <= guessed <= records:
        raise GatehouseError(f"{right} of {guessed} guesses on {records} records is no result of an audit.")
    error = 1 - confidence

    def excess(epsilon: float) -> float:
        return p_value(right, guessed, records, epsilon=epsilon, delta=delta) - error

    if excess(0.0) > 0:
        return 0.0
    return MOST if excess(MOST) <= 0 else float(brentq(excess, 0.0, MOST, xtol=1e-6))


def p_value(right: int, guessed: int, records: int, *, epsilon: float, delta: float) -> float:
    """Upper bound of the probability of so many right guesses or more, were the training (ε, δ)-private; in [0, 1]."""
    chance = 1 / (1 + np.exp(-epsilon))  # of one right guess
    beyond = float(binom.sf(right - 1, guessed, chance))
    # δ may turn any i guesses right: what it adds is the steepest mean of the probabilities just below.
    below = binom.pmf(np.arange(right - 1, -1, -1), guessed, chance)
    steepest = float((below.cumsum() / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, beyond + 2 * records * delta * steepest)
