"""ε for a given noise, and noise for a wanted ε, of DP-SGD with Poisson sampling (Abadi 2016).

Accounting is by privacy loss distributions (Koskela 2020; Doroshenko 2022), through `dp_accounting`. Neighbouring data
sets differ by one record more or less. Every figure is an upper bound: the discretisation rounds against us.
"""

from __future__ import annotations

import math

from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution

from tasks.errors import GatehouseError

LEAST_NOISE, MOST_NOISE = 0.3, 1000.0  # below the first, ε is beyond any use; above the second, nothing is learnt
FINE, COARSE = 1e-4, 1e-3  # width of a step of the discretised privacy loss: for the figure reported, for the search


def delta_for(records: int, target_delta: float = 0.0) -> float:
    """`target_delta`, or a tenth of one over `records` where that is 0; in (0, 1 / records)."""
    delta = target_delta or 0.1 / records
    if delta >= 1 / records:
        raise GatehouseError(
            f"privacy.target_delta = {delta:g} lets a mechanism publish one of the {records} records outright; "
            f"set it below {1 / records:.3g}, or to 0 for a tenth of that."
        )
    return delta


def epsilon(*, noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """ε at `delta` after `steps` steps, each over a Poisson sample of rate `sample_rate`; at least 0.

    Args:
        noise_multiplier: σ of the noise as a multiple of the clipping norm; 0 gives infinity.
        sample_rate: probability of each record to be in a batch, in (0, 1].
    """
    if noise_multiplier <= 0:
        return math.inf
    return float(_composed(noise_multiplier, sample_rate, steps, FINE).get_epsilon_for_delta(delta))


def advantage_ceiling(*, noise_multiplier: float, sample_rate: float, steps: int) -> float:
    """The largest membership advantage max |TPR − FPR| that any attack on one record can have, in [0, 1].

    It is the total variation distance of the mechanism's outputs on neighbouring data sets, δ at ε = 0, and far below
    what ε alone would allow (Dong 2022, section 2).
    """
    if noise_multiplier <= 0:
        return 1.0
    return float(_composed(noise_multiplier, sample_rate, steps, FINE).get_delta_for_epsilon(0.0))


def noise_for(target_epsilon: float, *, sample_rate: float, steps: int, delta: float) -> float:
    """The least noise multiplier, to four digits, whose ε is at most `target_epsilon`; never below `LEAST_NOISE`.

    Raises:
        GatehouseError: no noise multiplier up to `MOST_NOISE` reaches the wanted ε.
    """

    def reached(noise: float) -> float:
        return float(_composed(noise, sample_rate, steps, COARSE).get_epsilon_for_delta(delta))

    least = epsilon(noise_multiplier=MOST_NOISE, sample_rate=sample_rate, steps=steps, delta=delta)
    if least > target_epsilon:
        raise GatehouseError(
            f"privacy.target_epsilon = {target_epsilon:g} is not reached by any noise multiplier up to {MOST_NOISE:g} "
            f"(it gives {least:.2g} at δ = {delta:.2g}); raise it, or lower privacy.epochs."
        )
    low, high = LEAST_NOISE, MOST_NOISE
    if reached(low) <= target_epsilon:
        return low
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reached(middle) <= target_epsilon else (middle, high)
    return float(f"{high * (1 + 5e-5):.5g}")


def _composed(
    noise: float, sample_rate: float, steps: int, width: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    one = privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise,
        sampling_prob=sample_rate,
        value_discretization_interval=width,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
    return one.self_compose(steps)
