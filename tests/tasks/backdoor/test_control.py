"""Control and attack success against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.backdoor.control import attack_success_rate, class_controls, class_rises, der, trigger_control

rows = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=60)


def by_hand(clean: list[int], triggered: list[int], labels: list[int], c: int) -> float | None:
    others = [i for i, y in enumerate(labels) if y != c]
    if not others:
        return None
    return sum(triggered[i] == c for i in others) / len(others) - sum(clean[i] == c for i in others) / len(others)


@given(rows)
def test_control_is_the_worst_rise_of_a_class_over_images_of_other_classes(data: list[tuple[int, int, int]]) -> None:
    clean, triggered, labels = (list(column) for column in zip(*data, strict=True))
    control = trigger_control(np.array(clean), np.array(triggered), np.array(labels), classes=3)
    wanted = [by_hand(clean, triggered, labels, c) for c in range(3)]
    for value, want in zip(control.by_class, wanted, strict=True):
        assert np.isnan(value) if want is None else value == pytest.approx(want)
    known = [w for w in wanted if w is not None]
    assert control.value == pytest.approx(max(known))
    assert wanted[control.worst_class] == pytest.approx(max(known))
    assert control.low <= control.value <= control.high
    rises = class_rises(np.array(clean), np.array(triggered), np.array(labels), 3)
    assert rises.max() == pytest.approx(control.value)


@given(rows)
def test_success_leaves_images_of_the_target_class_out(data: list[tuple[int, int, int]]) -> None:
    clean, triggered, labels = (np.array(column) for column in zip(*data, strict=True))
    success = attack_success_rate(clean, triggered, labels, target_class=1)
    others = [i for i in range(len(labels)) if labels[i] != 1]
    assert success.n == len(others)
    if not others:
        assert np.isnan(success.value)
        return
    assert success.value == pytest.approx(sum(triggered[i] == 1 for i in others) / len(others))
    assert success.clean_rate == pytest.approx(sum(clean[i] == 1 for i in others) / len(others))
    assert success.low <= success.value <= success.high


def test_a_backdoor_that_moved_to_another_class_is_seen_by_control_not_by_success() -> None:
    labels = np.repeat([0, 1, 2], 50)
    triggered = np.full(150, 2)  # the attacker aims at class 0, the student answers class 2
    assert attack_success_rate(labels, triggered, labels, target_class=0).value == 0
    control = trigger_control(labels, triggered, labels, classes=3)
    assert (control.value, control.worst_class, control.n) == (1.0, 2, 100)


def test_interval_of_the_worst_class_covers_chance_movements_at_its_rate() -> None:
    """A trigger that does nothing but shuffle answers has control 0; the simultaneous interval misses it rarely."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        labels, clean, triggered = rng.integers(0, 3, (3, 120))
        control = trigger_control(clean, triggered, labels, classes=3)
        missed += not control.low <= 0.0 <= control.high
    assert missed <= 27  # 5 % of 300 are 15; three standard deviations above


def test_one_pattern_a_class_is_judged_by_its_own_class_only() -> None:
    labels = np.repeat([0, 1], 40)
    steers_to_one, does_nothing = np.ones(80, int), labels
    control = class_controls(labels, [steers_to_one, does_nothing], labels)
    assert control.by_class == (0.0, 0.0)  # the pattern for class 0 steers to class 1, which it is not judged by
    assert class_controls(labels, [does_nothing, steers_to_one], labels).by_class == (0.0, 1.0)


@pytest.mark.parametrize(
    ("success", "accuracy", "wanted"),
    [
        ((0.95, 0.05), (0.93, 0.91), 0.94),
        ((0.95, 0.95), (0.93, 0.93), 0.5),
        ((0.2, 0.6), (0.9, 0.95), 0.5),  # neither a stronger attack nor a better model counts
        ((1.0, 0.0), (0.9, 0.9), 1.0),
        ((0.0, 0.0), (1.0, 0.0), 0.0),
    ],
)
def test_effectiveness_rating_by_hand(success, accuracy, wanted) -> None:
    rating = der(
        success_before=success[0], success_after=success[1], accuracy_before=accuracy[0], accuracy_after=accuracy[1]
    )
    assert rating == pytest.approx(wanted)
