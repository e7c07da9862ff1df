"""Votes and refusals by hand, and an ensemble in which one of three members is backdoored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.backdoor.drill import control_by
from tasks.backdoor.ensemble import REFUSED, answers, measure_ensemble, vote
from tasks.errors import GatehouseError
from tasks.models.architectures import build

BALLOTS = np.array([[0, 0, 0, 2], [0, 1, 1, 2], [0, 1, 2, 0], [0, 0, 1, 2]])


def test_votes_by_hand() -> None:
    assert vote(BALLOTS, rule="majority").tolist() == [0, REFUSED, REFUSED, 2]
    assert vote(BALLOTS, rule="unanimous").tolist() == [0, REFUSED, REFUSED, REFUSED]
    assert vote(BALLOTS[:3], rule="majority").tolist() == [0, 1, REFUSED, 2]


@given(arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(0, 8)), elements=st.integers(0, 3)))
def test_unanimity_refuses_whatever_a_majority_refuses(ballots: np.ndarray) -> None:
    most, all_ = vote(ballots, rule="majority"), vote(ballots, rule="unanimous")
    for column, by_most, by_all in zip(ballots.T, most, all_, strict=True):
        counts = np.bincount(column, minlength=4)
        assert by_most == (counts.argmax() if 2 * counts.max() > len(column) else REFUSED)
        assert by_all == (column[0] if len(set(column.tolist())) == 1 else REFUSED)


@pytest.mark.parametrize("rule", ["majority", "unanimous"])
def test_one_backdoored_member_of_three_steers_nothing(world, rule) -> None:
    assert control_by(world.backdoored, world.trigger, world.test).value > 0.8
    figures = measure_ensemble([world.clean, world.backdoored, world.protected], world.test, world.trigger, rule=rule)
    assert figures.control.value < 0.1
    assert figures.accuracy > 0.95
    assert figures.refusal_rate < 0.1
    assert figures.as_json()["members"] == 3
    if rule == "unanimous":  # the backdoored member disagrees wherever the trigger moves it
        assert figures.refusal_rate_triggered > 0.4


def test_a_backdoored_majority_steers(world) -> None:
    figures = measure_ensemble(
        [world.backdoored, world.backdoored, world.clean], world.test, world.trigger, rule="majority"
    )
    assert figures.control.value == control_by(world.backdoored, world.trigger, world.test).value


def test_members_must_answer_the_same_classes(world) -> None:
    other = build(world.spec.model_copy(update={"classes": ("a", "b")}), seed=0)
    for members in ([], [world.clean, other]):
        with pytest.raises(GatehouseError, match="answer the same classes"):
            answers(members, world.test[0][:2])
