"""All gray-box attacks on a student that copied the teacher, and on one that never saw it."""

from __future__ import annotations

from conftest import TRAINING, Case

from tasks.evasion.gray_box import measure_gray_box

BUDGETS = (0.02, 0.15)


def test_the_teachers_copy_falls_to_its_attacks_and_a_stranger_stands(case: Case) -> None:
    own = (case.train[0][:60], case.train[1][:60])
    copied, stranger = (
        measure_gray_box(
            case.teacher, student, case.sample, own, TRAINING, budgets=BUDGETS, steps=10, seed=0, bfloat16=False
        )
        for student in (case.copied, case.other)
    )  # fmt: skip
    assert set(copied) == {"mimicry", "inner_mimicry", "repulsion", "activation", "own_head", "own_student", "noise"}
    for name in ("mimicry", "own_head"):
        weak, strong = (row["value"] for row in copied[name])
        assert strong >= weak
        assert strong > copied["noise"][1]["value"] + 0.3, name
        assert strong > stranger[name][1]["value"] + 0.2, name
    for rows in copied.values():
        assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 and r["n"] == len(case.sample.y) for r in rows)
