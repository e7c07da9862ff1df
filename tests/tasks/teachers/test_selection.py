from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import GatehouseError
from tasks.teachers.card import Offer
from tasks.teachers.case import OwnTask, Rules
from tasks.teachers.selection import Rank, Verdict, choose, examine_all, why

MakeOffer = Callable[..., Offer]
MakeRules = Callable[..., Rules]
WAIVE = ("signature", "disclosed_data")


def test_honest_is_chosen_and_the_others_are_refused_with_reasons(
    offer: MakeOffer, rules: MakeRules, task: OwnTask
) -> None:
    honest = offer(name="honest", signed=True)
    bargain = offer(name="bargain", licence="unknown", training_data={"name": "?", "disclosed": False})
    seen: list[str] = []
    verdicts = examine_all(
        [bargain, honest], rules(honest), task, (), progress=lambda n, v: seen.append(f"{n} {v.name}")
    )
    assert seen == ["1 bargain", "2 honest"]
    assert choose(verdicts).name == "honest"
    record = json.loads(json.dumps(verdicts[0].record(), allow_nan=False))
    assert record["accepted"] is False
    assert [r.split(":")[0] for r in record["reasons"]] == ["signature", "licence", "disclosed_data"]
    assert why(verdicts[1], verdicts) == "honest is the only one of 2 candidates that was not refused."


def test_waived_candidate_is_accepted_with_its_waivers_in_sight(
    offer: MakeOffer, rules: MakeRules, task: OwnTask
) -> None:
    bargain = offer(name="bargain", licence="unknown", training_data={"name": "?", "disclosed": False})
    (verdict,) = examine_all([bargain], rules(), task, (*WAIVE, "licence"))
    assert choose([verdict]) is verdict
    assert verdict.record()["waived"] == ["signature", "licence", "disclosed_data"]
    assert "with failures waived: signature, licence, disclosed_data" in why(verdict, [verdict])


def test_none_left_is_one_sentence_with_refusals_and_next_step(
    offer: MakeOffer, rules: MakeRules, task: OwnTask
) -> None:
    verdicts = examine_all([offer(name="one"), offer(name="two", licence="x")], rules(), task, ())
    with pytest.raises(GatehouseError) as caught:
        choose(verdicts)
    message = str(caught.value)
    assert "one (signature); two (signature, licence)" in message
    assert "teacher.waive" in message
    broken = offer(name="broken", signed=True)
    broken.weights.unlink()
    with pytest.raises(GatehouseError, match=r"broken \(digest\)") as caught:
        choose(examine_all([broken], rules(broken), task, ()))
    assert "teacher.waive" not in str(caught.value)  # nothing that could be waived would help
    assert "teacher.cards" in message


def test_trust_that_only_the_card_claims_does_not_count(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    boaster = offer(name="boaster", provider={"name": "b", "trust": "trusted"})
    modest = offer(name="modest", provider={"name": "m", "trust": "known"}, signed=True)
    verdicts = examine_all([boaster, modest], rules(modest), task, WAIVE)
    assert [v.rank.trust for v in verdicts] == [0, 1]
    assert choose(verdicts).name == "modest"
    assert why(verdicts[1], verdicts) == "modest ranks before boaster by trust 1 against 0."


def test_teacher_that_is_not_public_ranks_first_and_order_breaks_ties(
    offer: MakeOffer, rules: MakeRules, task: OwnTask
) -> None:
    public, private, twin = offer(name="public", public=True), offer(name="private"), offer(name="twin")
    verdicts = examine_all([public, private, twin], rules(), task, WAIVE)
    chosen = choose(verdicts)
    assert chosen.name == "private"
    assert "being listed first" in why(chosen, verdicts)


def test_waivers_are_checked_before_any_file_is_opened(rules: MakeRules, task: OwnTask) -> None:
    with pytest.raises(GatehouseError, match="cannot be waived"):
        examine_all([], rules(), task, ("digest",))


ranks = st.builds(
    Rank,
    not_accused=st.integers(0, 1),
    trust=st.integers(0, 2),
    signed=st.integers(0, 1),
    disclosed=st.integers(0, 1),
    not_public=st.integers(0, 1),
    accuracy=st.floats(0, 1),
)


@given(ranks, ranks)
def test_the_first_difference_in_order_of_importance_decides(a: Rank, b: Rank) -> None:
    for name in ("not_accused", "trust", "signed", "disclosed", "not_public", "accuracy"):
        first, second = getattr(a, name), getattr(b, name)
        if first != second:
            assert (a.key > b.key) == (first > second)
            return
    assert a.key == b.key


def test_refused_are_never_chosen_whatever_their_rank(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    best = offer(name="best", signed=True, provider={"name": "b", "trust": "trusted"}, licence="unknown")
    plain = offer(name="plain", public=True)
    verdicts: list[Verdict] = examine_all([best, plain], rules(best), task, ("signature",))
    assert verdicts[0].rank.key > verdicts[1].rank.key
    assert choose(verdicts).name == "plain"
