"""Risk answers decide gates, thresholds, candidate and output; a policy that was edited is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import GatehouseError
from tasks.files import write_json
from tasks.params import Risk, load_params
from tasks.risk import LEVELS, ONLY_IF, THRESHOLDS, decide, fingerprint, load_policy

PROJECT = Path(__file__).resolve().parents[2]
BASE = load_params(PROJECT / "params.yaml").risk
level = st.sampled_from(LEVELS)
risks = st.builds(
    Risk,
    a1_impact_normal=level,
    a2_impact_adversarial=level,
    b1_training_data_trusted=st.booleans(),
    b2_training_images=st.sampled_from(["few", "some", "many"]),
    b3_teacher_trusted=st.booleans(),
    b4_teachers_available=st.sampled_from(["one", "few", "many"]),
    b5_compute=st.sampled_from(["cpu", "gpu", "cluster"]),
    b6_known_benign_samples=st.booleans(),
    b7_tools_trusted=st.booleans(),
    c1_input=st.sampled_from(["digital", "physical"]),
    c2_cheap_queries=st.booleans(),
    c3_frequent_queries=st.booleans(),
    c4_internals_exposed=st.booleans(),
    data_about_people=st.booleans(),
    thresholds=st.just({}),
)


def risk(**changes: object) -> Risk:
    return BASE.model_copy(update=changes)


@given(own=risks)
def test_data_and_provenance_are_always_required_and_every_row_has_its_reason(own: Risk) -> None:
    policy = decide(own)
    assert {"data", "provenance"} <= set(policy.required())
    assert all(rule.why for rule in policy.gates)
    assert set(policy.threshold_why) == set(policy.thresholds)
    assert policy.sha256 == fingerprint(policy)
    if own.data_about_people:
        assert "privacy" in policy.required()
    if "high" in (own.a1_impact_normal, own.a2_impact_adversarial):
        assert {"backdoor", "adversarial"} <= set(policy.required())


@given(own=risks)
def test_a_worse_impact_never_loosens_a_threshold(own: Risk) -> None:
    levels = [decide(own.model_copy(update={"a2_impact_adversarial": a2})) for a2 in LEVELS]
    for mild, severe in pairwise(levels):
        for name, value in severe.thresholds.items():
            least = name.endswith("_minimum")
            assert value >= mild.thresholds[name] if least else value <= mild.thresholds[name]
        assert set(mild.required()) <= set(severe.required())


def test_white_box_attacks_are_judged_only_where_internals_are_exposed() -> None:
    assert "adversarial.white_box_success" not in decide(risk(c4_internals_exposed=False)).thresholds
    exposed = decide(risk(c4_internals_exposed=True))
    assert exposed.threshold("adversarial", "white_box_success") < 1  # a threshold of 1 could never fail
    assert "C.4" in exposed.threshold_why["adversarial.white_box_success"]
    by_hand = decide(risk(thresholds={"adversarial.white_box_success": 0.3}))
    assert by_hand.threshold("adversarial", "white_box_success") == 0.3


def test_every_row_can_fail_and_can_pass() -> None:
    for name, row in THRESHOLDS.items():
        if "success" in name or "control" in name or "accuracy" in name:
            assert all(0 < value < 1 for value in row), name
    assert set(ONLY_IF) <= set(THRESHOLDS)


def test_overrides_count_and_unknown_ones_are_refused() -> None:
    policy = decide(risk(thresholds={"backdoor.patch_control": 0.2}))
    assert policy.threshold("backdoor", "patch_control") == 0.2
    assert policy.threshold_why["backdoor.patch_control"] == "set by hand in risk.thresholds"
    with pytest.raises(GatehouseError, match=r"'backdoor\.patchcontrol', which is no check"):
        decide(risk(thresholds={"backdoor.patchcontrol": 0.2}))


def test_the_candidate_is_private_where_weights_and_people_are_exposed() -> None:
    assert decide(risk(c4_internals_exposed=True, data_about_people=True)).candidate == "private_student"
    assert decide(risk(c4_internals_exposed=False, data_about_people=True)).candidate == "student"
    assert decide(risk(c4_internals_exposed=True, data_about_people=False)).candidate == "student"


@pytest.mark.parametrize(
    ("cheap", "frequent", "output"),
    [(True, True, "labels"), (True, False, "rounded"), (False, True, "rounded"), (False, False, "scores")],
)
def test_what_serving_reveals_follows_from_queries(cheap: bool, frequent: bool, output: str) -> None:
    assert decide(risk(c2_cheap_queries=cheap, c3_frequent_queries=frequent)).output == output


def test_a_trusted_single_teacher_on_trusted_data_needs_no_backdoor_gate() -> None:
    calm = risk(
        a1_impact_normal="low", a2_impact_adversarial="low", b3_teacher_trusted=True, b4_teachers_available="one"
    )
    assert "backdoor" not in decide(calm).required()
    assert "backdoor" in decide(calm.model_copy(update={"b3_teacher_trusted": False})).required()


def test_a_policy_reads_back_and_an_edited_one_is_refused(tmp_path: Path) -> None:
    path, policy = tmp_path / "policy.json", decide(BASE)
    write_json(path, policy.model_dump(mode="json"))
    assert load_policy(path) == policy
    content = json.loads(path.read_text())
    content["thresholds"]["backdoor.patch_control"] = 1.0
    path.write_text(json.dumps(content))
    with pytest.raises(GatehouseError, match="was edited"):
        load_policy(path)
    path.write_text('{"candidate": "student"}')
    with pytest.raises(GatehouseError, match="malformed"):
        load_policy(path)
