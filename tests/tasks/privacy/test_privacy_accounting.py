"""ε against closed forms, another API of the same library, and Opacus' own accountants."""

import math

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from tasks.errors import GatehouseError
from tasks.privacy.accounting import (
    LEAST_NOISE,
    advantage_ceiling,
    delta_for,
    epsilon,
    noise_for,
    noise_for_advantage,
)


def gaussian_delta(eps: float, sigma: float) -> float:
    """δ(ε) of one Gaussian mechanism of sensitivity 1 (Balle and Wang 2018, theorem 5)."""
    return norm.cdf(0.5 / sigma - eps * sigma) - math.exp(eps) * norm.cdf(-0.5 / sigma - eps * sigma)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.5])
def test_one_step_over_all_records_is_the_gaussian_mechanism(sigma):
    delta = 1e-5
    exact = brentq(lambda e: gaussian_delta(e, sigma) - delta, 0, 60)
    ours = epsilon(noise_multiplier=sigma, sample_rate=1.0, steps=1, delta=delta)
    assert exact <= ours + 1e-9
    assert ours == pytest.approx(exact, rel=2e-3)
    ceiling = advantage_ceiling(noise_multiplier=sigma, sample_rate=1.0, steps=1)
    assert ceiling == pytest.approx(2 * norm.cdf(0.5 / sigma) - 1, rel=2e-3)


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_agrees_with_the_event_api_and_with_opacus(sigma):
    rate, steps, delta = 1 / 7, 140, 6e-5
    ours = epsilon(noise_multiplier=sigma, sample_rate=rate, steps=steps, delta=delta)
    events = PLDAccountant().compose(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), steps)
    assert ours == pytest.approx(events.get_epsilon(delta), rel=1e-3)
    prv, rdp = PRVAccountant(), RDPAccountant()
    prv.history = rdp.history = [(sigma, rate, steps)]
    assert ours == pytest.approx(prv.get_epsilon(delta), rel=1e-2)
    assert ours < rdp.get_epsilon(delta)


@pytest.mark.parametrize(("target", "per_epoch", "steps"), [(1.0, 4, 20), (8.0, 13, 60), (3.0, 1, 5), (200.0, 1, 1)])
def test_the_noise_found_reaches_the_target_and_hardly_more(target, per_epoch, steps):
    noise = noise_for(target, sample_rate=1 / per_epoch, steps=steps, delta=1e-5)
    spent = epsilon(noise_multiplier=noise, sample_rate=1 / per_epoch, steps=steps, delta=1e-5)
    assert spent <= target
    if noise > LEAST_NOISE:
        less = epsilon(noise_multiplier=noise * 0.99, sample_rate=1 / per_epoch, steps=steps, delta=1e-5)
        assert less > target * 0.995


@pytest.mark.parametrize(("target", "noise"), [(0.05, 6.2), (0.1, 3.1), (0.2, 1.6), (0.3, 1.15)])
def test_the_noise_for_an_advantage_is_that_of_f_dp(target, noise):
    """Of 1 088 records in batches of 64 for 10 epochs, computed elsewhere by Gaussian trade-off functions."""
    rate, steps = 64 / 1088, 170
    found = noise_for_advantage(target, sample_rate=rate, steps=steps)
    assert found == pytest.approx(noise, rel=0.03)
    assert advantage_ceiling(noise_multiplier=found, sample_rate=rate, steps=steps) <= target
    assert advantage_ceiling(noise_multiplier=0.99 * found, sample_rate=rate, steps=steps) > target


def test_an_advantage_that_cannot_be_had_is_one_clear_error():
    with pytest.raises(GatehouseError, match="between 0 and 1"):
        noise_for_advantage(1.0, sample_rate=0.1, steps=10)
    with pytest.raises(GatehouseError, match="is not reached by any noise"):
        noise_for_advantage(1e-6, sample_rate=1.0, steps=100)


def test_ceiling_is_far_below_what_epsilon_alone_allows():
    how = {"noise_multiplier": 1.5, "sample_rate": 1 / 7, "steps": 280}
    spent = epsilon(**how, delta=6e-5)
    ceiling = advantage_ceiling(**how)
    assert 0.4 < ceiling < 0.75
    assert ceiling < (math.exp(spent) - 1 + 2 * 6e-5) / (math.exp(spent) + 1)


def test_no_noise_proves_nothing():
    how = {"noise_multiplier": 0.0, "sample_rate": 0.1, "steps": 10}
    assert epsilon(**how, delta=1e-5) == math.inf
    assert advantage_ceiling(**how) == 1.0


def test_an_epsilon_that_no_noise_reaches_is_one_clear_error():
    with pytest.raises(
        GatehouseError, match=r"target_epsilon = 1e-05 is not reached by any noise multiplier up to 1000"
    ):
        noise_for(1e-5, sample_rate=0.5, steps=1000, delta=1e-6)


def test_delta_defaults_to_a_tenth_of_one_over_the_records_and_is_refused_above_one_over_them():
    assert delta_for(1000) == pytest.approx(1e-4)
    assert delta_for(1000, 1e-6) == 1e-6
    with pytest.raises(GatehouseError, match=r"target_delta = 0\.001 lets a mechanism publish one of the 1000"):
        delta_for(1000, 1e-3)
