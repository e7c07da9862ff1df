"""Weaker is what asks for less in any point; stricter is no objection."""

from __future__ import annotations

import pytest
from promotion_case import risk

from tasks.promotion.strictness import weaker
from tasks.risk import decide


@pytest.mark.parametrize(
    ("signed", "in_force", "clause"),
    [
        ({}, {}, ""),
        ({"a2_impact_adversarial": "high"}, {}, ""),
        ({"c3_frequent_queries": True}, {}, ""),
        ({"c4_internals_exposed": True}, {}, ""),
        ({}, {"a2_impact_adversarial": "high"}, "it allows data.unreadable_share 0.05, and 0.01 is in force"),
        ({"thresholds": {"backdoor.accuracy_minimum": 0.5}}, {}, "backdoor.accuracy_minimum 0.5, and 0.7 is in force"),
        ({"thresholds": {"backdoor.accuracy_minimum": 0.8}}, {}, ""),
        ({"data_about_people": False}, {}, "it does not require the gate privacy"),
        ({}, {"data_about_people": False}, ""),
        ({}, {"c4_internals_exposed": True}, "a private one is required"),
        ({}, {"thresholds": {"adversarial.white_box_success": 0.5}}, "it sets no limit for adversarial.white_box"),
        ({}, {"c3_frequent_queries": True}, "it reveals rounded, and only labels may be revealed"),
    ],
)
def test_in_which_point_a_policy_is_weaker(signed: dict, in_force: dict, clause: str) -> None:
    points = weaker(decide(risk(**signed)), decide(risk(**in_force)))
    assert any(clause in p for p in points) if clause else points == []
