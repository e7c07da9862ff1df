"""ε for a given noise, and noise for a wanted ε, of DP-SGD with Poisson sampling (Abadi 2016).

Accounting is by privacy loss distributions (Koskela 2020; Doroshenko 2022), through `dp_accounting`. Neighbouring data
sets differ by one record more or less. Every figure is an upper bound: the discretisation rounds against us.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache, reduce

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq

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


def composed_epsilon(trainings: Iterable[tuple[float, float, int]], *, delta: float) -> float:
    """ε at `delta` of publishing all of these trainings, each (noise multiplier, sample rate, steps); at least 0.

    It is what a search costs that looks at every training and keeps the best (naive composition, by loss distribution).
    """
    steps: Counter[tuple[float, float]] = Counter()
    for noise, rate, own in trainings:
        if noise <= 0:
            return math.inf
        steps[noise, rate] += own
    parts = [_composed(noise, rate, count, COARSE) for (noise, rate), count in sorted(steps.items())]
    return float(reduce(lambda a, b: a.compose(b), parts).get_epsilon_for_delta(delta)) if parts else 0.0


def selected_epsilon(trainings: Iterable[tuple[float, float, int]], *, trials: float, delta: float) -> float:
    """ε at `delta` of the best of a random number of trainings, each drawn at random among `trainings`; at least 0.

    The number is geometric with mean `trials` and must be secret, as the seed of the noise is (Papernot and Steinke
    2022): the search then costs a small multiple of one training. Each training is (noise multiplier, rate, steps).
    """

    def best(noise: float, rate: float, steps: int) -> float:
        one = SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
        accountant = RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
        accountant.compose(RepeatAndSelectDpEvent(one, trials, 1))
        return float(accountant.get_epsilon(delta))

    # Of a training drawn at random the loss is at most that of the worst one.
    return max((best(*t) if t[0] > 0 else math.inf for t in set(trainings)), default=0.0)


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

    def spent(noise: float, width: float) -> float:
        return float(_composed(noise, sample_rate, steps, width).get_epsilon_for_delta(delta))

    least = spent(MOST_NOISE, FINE)
    if least > target_epsilon:
        raise GatehouseError(
            f"privacy.target_epsilon = {target_epsilon:g} is not reached by any noise multiplier up to {MOST_NOISE:g} "
            f"(it gives {least:.2g} at δ = {delta:.2g}); raise it, or lower privacy.epochs."
        )
    return _least_noise(spent, target_epsilon)


def noise_for_advantage(target: float, *, sample_rate: float, steps: int) -> float:
    """The least noise multiplier, to four digits, at which no attack on one record gains more advantage than `target`.

    It follows from the privacy loss alone, without any attack (`advantage_ceiling`); never below `LEAST_NOISE`.

    Args:
        target: membership advantage max |TPR − FPR|, in (0, 1).

    Raises:
        GatehouseError: a target outside (0, 1), or one that no noise multiplier up to `MOST_NOISE` reaches.
    """
    if not 0 < target < 1:
        raise GatehouseError(f"A membership advantage to stay below must lie between 0 and 1, not {target:g}.")

    def gained(noise: float, width: float) -> float:
        return float(_composed(noise, sample_rate, steps, width).get_delta_for_epsilon(0.0))

    if gained(MOST_NOISE, FINE) > target:
        raise GatehouseError(
            f"A membership advantage of {target:g} is not reached by any noise multiplier up to {MOST_NOISE:g}; "
            "raise it, or train for fewer epochs."
        )
    return _least_noise(gained, target)


def _least_noise(figure: Callable[[float, float], float], target: float) -> float:
    """The least noise whose `figure`, of noise and discretisation width and falling with noise, is at most `target`."""

    def excess(log_noise: float) -> float:
        return math.log(max(figure(math.exp(log_noise), COARSE), 1e-12) / target)

    # From 1 outwards by factors of two, since distributions of little noise are wide and slow.
    low = high = 0.0
    while excess(high) > 0 and high < math.log(MOST_NOISE):
        low, high = high, high + math.log(2)
    while low == high or excess(low) <= 0:
        if low == math.log(LEAST_NOISE):
            return LEAST_NOISE
        low, high = max(low - math.log(2), math.log(LEAST_NOISE)), low
    noise = math.exp(brentq(excess, low, high, xtol=5e-5)) if excess(high) < 0 else math.exp(high)
    while True:
        noise = float(f"{noise:.5g}")
        if figure(noise, FINE) <= target:
            return noise
        noise *= 1.0001


@lru_cache(maxsize=8)
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
