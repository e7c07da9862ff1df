"""The decision as a table, its reasons, and that no combination with a gate that did not pass is ever promoted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promotion_case import NO_CHAMPION, STUDENT_TASK, TEACHER, Case, make_case, result, risk

from tasks.gate import Check, Drill, GateResult
from tasks.models.architectures import ModelSpec
from tasks.models.checkpoints import ModelRecord
from tasks.promotion.comparison import compare
from tasks.promotion.decision import Comparison, decide, gate_reasons, result_names
from tasks.promotion.next_steps import NEXT_STEPS, next_step
from tasks.risk import THRESHOLDS, Policy
from tasks.risk import decide as policy_for

SHA = "1" * 64


def record(**parents: str) -> ModelRecord:
    spec = ModelSpec(architecture="simple_cnn", classes=("a", "b", "c"))
    return ModelRecord(spec=spec, sha256=SHA, parents={"teacher": TEACHER, "student_task": STUDENT_TASK, **parents})


def results(policy: Policy) -> dict[str, GateResult]:
    subjects = {"data": STUDENT_TASK, "provenance": TEACHER}
    return {r.gate: result(policy, r.gate, subjects.get(r.gate, SHA)) for r in policy.gates}


def with_check(own: GateResult, **changes: object) -> GateResult:
    return own.model_copy(update={"checks": (own.checks[0].model_copy(update=changes), *own.checks[1:])})


def test_all_gates_passed_is_promoted() -> None:
    policy = policy_for(risk())
    decision = decide(policy, tuple(results(policy).values()), record(), NO_CHAMPION)
    assert decision.decision == "promoted"
    assert decision.reasons == ()
    assert decision.sha256 == SHA


@dataclass(frozen=True)
class Row:
    name: str
    gate: str
    change: dict[str, object]
    check: str
    status: str


ROWS = [
    Row("failed", "backdoor", {"observed": 0.5, "ci": (0.4, 0.6)}, "trigger_control", "failed"),
    Row("unmeasured", "privacy", {"observed": None}, "membership_advantage", "inconclusive"),
    Row("no interval", "privacy", {"ci": None}, "membership_advantage", "inconclusive"),
    Row("no samples", "adversarial", {"n": 0}, "gray_box_success", "inconclusive"),
    Row("looser threshold", "backdoor", {"threshold": 0.9}, "trigger_control", "unbound"),
    Row("turned", "adversarial", {"op": ">=", "threshold": 0.6, "ci": (0.7, 0.8)}, "gray_box_success", "unbound"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_one_bad_check_refuses_with_its_reason(row: Row) -> None:
    policy = policy_for(risk())
    all_results = results(policy)
    all_results[row.gate] = with_check(all_results[row.gate], **row.change)
    decision = decide(policy, tuple(all_results.values()), record(), NO_CHAMPION)
    assert decision.decision == "refused"
    assert (row.gate, row.check, row.status) in [(r.gate, r.check, r.status) for r in decision.reasons]
    assert all(r.sentence and r.next_step for r in decision.reasons)


def test_a_failing_check_says_by_how_much_and_what_next() -> None:
    policy = policy_for(risk())
    all_results = results(policy)
    all_results["backdoor"] = with_check(all_results["backdoor"], observed=0.31, ci=(0.25, 0.38))
    (reason,) = decide(policy, tuple(all_results.values()), record(), NO_CHAMPION).reasons
    assert reason.by == pytest.approx(0.28)
    assert (reason.observed, reason.ci, reason.threshold, reason.op) == (0.31, (0.25, 0.38), 0.1, "<=")
    assert "0.31" in reason.sentence
    assert "0.28" in reason.sentence
    assert "retrain more layers" in reason.next_step


def test_a_gate_that_the_policy_does_not_require_only_leaves_a_note() -> None:
    policy = policy_for(risk(data_about_people=False))
    all_results = results(policy)
    all_results["privacy"] = with_check(all_results["privacy"], observed=0.9, ci=(0.8, 1.0))
    decision = decide(policy, tuple(all_results.values()), record(), NO_CHAMPION)
    assert decision.decision == "promoted"
    assert any("privacy" in note and "not required" in note for note in decision.notes)


def test_a_check_that_is_left_out_refuses() -> None:
    policy = policy_for(risk())
    all_results = results(policy)
    own = all_results["backdoor"]
    all_results["backdoor"] = own.model_copy(update={"checks": own.checks[:1]})
    reasons = decide(policy, tuple(all_results.values()), record(), NO_CHAMPION).reasons
    assert {r.status for r in reasons} == {"missing"}
    assert {r.check for r in reasons} == {c.name for c in own.checks[1:]}


def test_a_second_result_cannot_hide_a_failing_one() -> None:
    policy = policy_for(risk())
    all_results = results(policy)
    bad = with_check(all_results["backdoor"], observed=0.9, ci=(0.8, 1.0))
    decision = decide(policy, (*all_results.values(), bad), record(), NO_CHAMPION)
    assert decision.decision == "refused"


def test_results_of_the_other_candidate_do_not_count() -> None:
    policy = policy_for(risk())
    all_results = results(policy)
    all_results["backdoor"] = all_results["backdoor"].model_copy(update={"candidate": "private_student"})
    (reason,) = decide(policy, tuple(all_results.values()), record(), NO_CHAMPION).reasons
    assert (reason.gate, reason.check, reason.status) == ("backdoor", "result", "missing")


def test_a_model_without_recorded_parents_is_refused() -> None:
    policy = policy_for(risk())
    bare = record().model_copy(update={"parents": {}})
    reasons = decide(policy, tuple(results(policy).values()), bare, NO_CHAMPION).reasons
    assert {(r.gate, r.check) for r in reasons} == {("data", "subject"), ("provenance", "subject")}


def test_result_names_follow_the_subject() -> None:
    assert result_names(("data", "provenance", "privacy"), "private_student") == (
        "data@student_task.json",
        "provenance@teacher.json",
        "privacy@private_student.json",
    )


def test_every_threshold_of_the_policy_has_its_own_advice() -> None:
    assert set(THRESHOLDS) <= set(NEXT_STEPS)
    assert all("." in step for step in NEXT_STEPS.values())
    assert next_step("backdoor", "something new") == NEXT_STEPS["backdoor"]


# --- property: whatever the results look like, one gate that is not passed is enough to refuse ---------------------

GATES = ("data", "provenance", "backdoor", "adversarial", "privacy")
FLAWS = (
    "none",
    "failed",
    "unmeasured",
    "drill missed",
    "other digest",
    "other policy",
    "missing",
    "no checks",
    "omitted",
)


def flawed(own: GateResult, flaw: str) -> GateResult | None:
    changes: dict[str, dict[str, object]] = {
        "none": {},
        "drill missed": {"drill": Drill(planted=3, caught=1, clean=2, accused=0)},
        "other digest": {"subject": own.subject.model_copy(update={"sha256": "9" * 64})},
        "other policy": {"policy_sha256": "8" * 64},
        "no checks": {"checks": ()},
        "omitted": {"checks": own.checks[1:]},
    }
    if flaw == "missing":
        return None
    if flaw == "failed":
        first = own.checks[0]
        beyond = first.threshold + (1 if first.op == "<=" else -1)
        return with_check(own, observed=beyond, ci=(beyond, beyond))
    if flaw == "unmeasured":
        return with_check(own, observed=float("nan"), ci=None)
    return own.model_copy(update=changes[flaw])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    flaws=st.tuples(*[st.sampled_from(FLAWS) for _ in GATES]),
    people=st.booleans(),
    trusted=st.booleans(),
    exposed=st.booleans(),
    impact=st.sampled_from(["low", "moderate", "high"]),
    order=st.permutations(range(len(GATES))),
)
def test_no_combination_with_a_gate_that_did_not_pass_is_promoted(
    flaws: tuple[str, ...], people: bool, trusted: bool, exposed: bool, impact: str, order: list[int]
) -> None:
    answers = {
        "data_about_people": people,
        "b3_teacher_trusted": trusted,
        "b4_teachers_available": "one" if trusted else "few",
        "c1_input": "physical" if trusted else "digital",
        "c2_cheap_queries": not trusted,
        "c4_internals_exposed": exposed,
        "a2_impact_adversarial": impact,
    }
    policy = policy_for(risk(**answers))
    by_gate = results(policy)
    given_results = [flawed(by_gate[gate], flaw) for gate, flaw in zip(GATES, flaws, strict=True)]
    ordered = tuple(r for i in order if (r := given_results[i]) is not None)
    decision = decide(policy, ordered, record(), NO_CHAMPION)
    sound = all(flaw == "none" for gate, flaw in zip(GATES, flaws, strict=True) if gate in policy.required())
    assert decision.decision == ("promoted" if sound else "refused")
    assert bool(decision.reasons) != sound


# --- the champion ----------------------------------------------------------------------------------------------


def answers(labels: np.ndarray, wrong: int, seed: int) -> np.ndarray:
    """Predictions with `wrong` random mistakes."""
    predicted = labels.copy()
    rows = np.random.default_rng(seed).choice(len(labels), wrong, replace=False)
    predicted[rows] = (predicted[rows] + 1) % 3
    return predicted


def beside(wrong: int, champion_wrong: int, margin: float = 0.02, n: int = 600) -> Comparison:
    labels = np.arange(n) % 3
    return compare(
        answers(labels, wrong, 0),
        answers(labels, champion_wrong, 1),
        labels,
        margin=margin,
        seed=0,
        version="4",
        sha256="2" * 64,
    )


def refused_for_champion(comparison: Comparison) -> bool:
    policy = policy_for(risk())
    decision = decide(policy, tuple(results(policy).values()), record(), comparison)
    return "champion" in {r.gate for r in decision.reasons}


def test_a_candidate_clearly_worse_than_the_champion_is_refused() -> None:
    comparison = beside(120, 20)
    assert comparison.check is not None
    assert comparison.check.observed == pytest.approx(-100 / 600, abs=0.001)
    assert refused_for_champion(comparison)


@pytest.mark.parametrize(("wrong", "champion_wrong"), [(20, 20), (10, 60), (0, 0)])
def test_an_equal_or_better_candidate_is_not_refused(wrong: int, champion_wrong: int) -> None:
    assert not refused_for_champion(beside(wrong, champion_wrong, margin=0.04))


def test_few_test_images_cannot_show_that_it_is_no_worse() -> None:
    """The bad end of the interval decides: what is equal on 30 images may be worse."""
    assert refused_for_champion(beside(6, 6, margin=0.02, n=30))


def test_pairing_narrows_the_interval() -> None:
    """Two models that err on the same images differ by exactly nothing, however few images there are."""
    labels = np.arange(60) % 3
    same = answers(labels, 20, 0)
    check = compare(same, same, labels, margin=0.0, seed=0, version="1", sha256="2" * 64).check
    assert check is not None
    assert check.ci == (0.0, 0.0)
    assert check.status == "passed"


def test_no_test_images_is_inconclusive() -> None:
    none = np.empty(0, int)
    comparison = compare(none, none, none, margin=0.02, seed=0, version="1", sha256="2" * 64)
    assert refused_for_champion(comparison)


def test_a_champion_that_does_not_count_does_not_decide_but_is_mentioned() -> None:
    unproven = Comparison(counts=False, why="The alias stands on an unproven version.", version="3", sha256="2" * 64)
    assert not refused_for_champion(unproven)
    policy = policy_for(risk())
    decision = decide(policy, tuple(results(policy).values()), record(), unproven)
    assert decision.notes[0] == unproven.why


def test_a_comparison_that_counts_must_have_been_measured() -> None:
    assert refused_for_champion(Comparison(counts=True, why="It counts.", version="3", sha256="2" * 64))


def test_gate_reasons_is_empty_for_a_sound_gate(case: Case) -> None:
    assert gate_reasons("backdoor", case.policy, tuple(case.results.values()), case.record) == []


def test_two_cases_of_one_seed_are_the_same_candidate(tmp_path) -> None:  # type: ignore[no-untyped-def]
    first, second = make_case(tmp_path / "1"), make_case(tmp_path / "2")
    assert first.record.sha256 == second.record.sha256
    assert isinstance(first.results["data"].checks[0], Check)
