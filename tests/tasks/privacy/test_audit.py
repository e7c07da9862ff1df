"""The audit: what it refutes is refuted, what is true never is, and the formula is the paper's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tasks.errors import GatehouseError
from tasks.privacy.audit import epsilon_floor, guesses, p_value


@given(right=st.integers(0, 60), more=st.integers(0, 40), epsilon=st.floats(0, 8), delta=st.floats(0, 0.01))
@settings(max_examples=60, deadline=None)
def test_the_p_value_is_the_papers_sum(right: int, more: int, epsilon: float, delta: float) -> None:
    guessed, records = right + more, 150
    q = 1 / (1 + math.exp(-epsilon))
    beta = sum(math.comb(guessed, k) * q**k * (1 - q) ** (guessed - k) for k in range(right, guessed + 1))
    alpha = max(
        (sum(binom.pmf(right - j, guessed, q) for j in range(1, i + 1)) / i for i in range(1, right + 1)), default=0
    )
    wanted = min(1, beta + 2 * records * delta * alpha)
    assert p_value(right, guessed, records, epsilon=epsilon, delta=delta) == pytest.approx(wanted, abs=1e-9)


@given(st.integers(1, 300), st.data())
@settings(max_examples=60, deadline=None)
def test_more_right_guesses_never_lower_the_floor(guessed: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, guessed - 1))
    floors = [epsilon_floor(k, guessed, 400, delta=1e-6) for k in (right, right + 1)]
    assert 0 <= floors[0] <= floors[1] + 1e-6
    assert epsilon_floor(right, guessed, 400, delta=1e-4) <= floors[0] + 1e-5


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_the_floor_of_randomised_response_lies_below_its_epsilon_and_near_it(epsilon: float) -> None:
    """Randomised response answers each coin rightly with probability e^ε / (1 + e^ε): it is the worst there is."""
    q, n, runs = 1 / (1 + math.exp(-epsilon)), 2000, 200
    right = np.random.default_rng(0).binomial(n, q, runs)
    floors = np.array([epsilon_floor(int(r), n, n, delta=0.0) for r in right])
    assert (floors > epsilon).mean() < 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    assert np.median(floors) > 0.75 * epsilon


def test_guesses_are_made_at_both_ends() -> None:
    scores, included = np.arange(10.0), np.arange(10) >= 5
    assert guesses(scores, included, share=0.3) == (6, 6)
    assert guesses(-scores, included, share=0.3) == (0, 6)
    assert guesses(scores, included, share=0.5) == (10, 10)
    with pytest.raises(GatehouseError, match="must lie in"):
        guesses(scores, included, share=0.6)
    with pytest.raises(GatehouseError, match="no result"):
        epsilon_floor(5, 4, 10, delta=0)
    assert epsilon_floor(50, 100, 100, delta=1e-5) == 0
