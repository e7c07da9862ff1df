"""Canaries differ, take, and are followed; the freeze policy is chosen as the study advises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tasks.backdoor import drill
from tasks.backdoor.choice import choose_policy
from tasks.backdoor.control import Control
from tasks.backdoor.drill import Canary, Cell
from tasks.backdoor.triggers import square
from tasks.models.architectures import build
from tasks.models.checkpoints import digest
from tasks.models.inference import accuracy_of


def planned(world, seed: int, count: int = 4) -> list[Canary]:
    return drill.plan_canaries(
        count, world.train[0], trigger_fraction=0.1, poison_rate=0.15, epochs=2, classes=3, seed=seed
    )  # fmt: skip


def test_canaries_differ_in_corner_pattern_and_target(world) -> None:
    canaries = planned(world, 0)
    assert len({c.corner for c in canaries}) == len({c.pattern for c in canaries}) == 4
    assert {c.target_class for c in canaries} == {0, 1, 2}
    for c in canaries:
        assert c.trigger.pattern.shape == (1, 3, 3)
        assert c.trigger.top == (29 if c.corner.startswith("bottom") else 0)
        assert c.trigger.left == (29 if c.corner.endswith("right") else 0)


def test_the_seed_decides_which_canaries_are_planted(world) -> None:
    again = [(c.corner, c.pattern, c.target_class) for c in planned(world, 1)]
    assert again == [(c.corner, c.pattern, c.target_class) for c in planned(world, 1)]
    assert any(again != [(c.corner, c.pattern, c.target_class) for c in planned(world, s)] for s in (2, 3, 4))


def test_a_trigger_that_the_images_would_hide_is_drawn_in_opposite_shades() -> None:
    white = np.full((20, 1, 32, 32), 255, np.uint8)
    canaries = drill.plan_canaries(4, white, trigger_fraction=0.1, poison_rate=0.1, epochs=1, classes=2, seed=0)
    assert min(drill.visibility(c.trigger, white) for c in canaries) > 0.2
    hidden = next(c for c in canaries if c.pattern == "white, inverted")
    assert not hidden.trigger.pattern.any()


def test_stronger_means_more_poison_and_more_epochs(world) -> None:
    canary = planned(world, 0)[0]
    assert (canary.stronger().poison_rate, canary.stronger().epochs) == (0.3, 4)
    assert canary.stronger().stronger().poison_rate == 0.4


def test_a_canary_takes_in_a_copy_and_transfers_through_frozen_features(world) -> None:
    before = digest(world.clean)
    canary = Canary("canary0", square(side=3, channels=1, image_size=32), "top_left", "white", 0, 0.2, 12, 5)
    teacher = drill.plant(world.clean, world.train, world.val, canary)
    success, accuracy = drill.measure_teacher(teacher, world.test, canary)
    assert success > 0.9
    assert accuracy > 0.9
    assert digest(world.clean) == before
    recipe = world.recipe(4, 0.8).undefended()
    assert recipe.patch_probability == 0
    student = drill.student_of(teacher, 3, world.train, world.val, recipe, policy="none", seed=1)
    for name, block in teacher.blocks.items():
        for a, b in zip(block.state_dict().values(), student.blocks[name].state_dict().values(), strict=True):
            assert torch.equal(a, b)
    right, control, on_target = drill.measure_student(student, world.test, canary.trigger, 0)
    assert right == accuracy_of(student, world.test)
    assert control.value > 0.5
    assert on_target is not None
    assert control == drill.control_by(student, canary.trigger, world.test)


def test_students_trained_side_by_side_are_those_trained_in_turn(world) -> None:
    few = world.train[0][:90], world.train[1][:90]

    def student(seed: int) -> str:
        recipe = world.recipe(1, 0.5)
        return digest(drill.student_of(world.clean, 3, few, world.val, recipe, policy="all", seed=seed))

    with ThreadPoolExecutor(max_workers=3) as pool:
        assert list(pool.map(student, range(6))) == [student(seed) for seed in range(6)]


def test_a_fresh_reference_holds_nothing_of_the_teacher(world) -> None:
    few = world.train[0][:60], world.train[1][:60]
    fresh = [
        drill.clean_reference(teacher, world.spec, few, world.val, fresh=True, epochs=1, seed=2)
        for teacher in (world.clean, world.backdoored)
    ]
    assert digest(fresh[0]) == digest(fresh[1])
    copied = drill.clean_reference(world.clean, world.spec, few, world.val, fresh=False, epochs=1, seed=2)
    assert digest(copied) != digest(fresh[0])


def cell(policy, accuracy: float, control: float, *, kind: str = "canary", arm: str = "defended") -> Cell:
    figure = Control(control, control - 0.05, control + 0.05, 0, 100, (control, 0.0))
    return Cell("canary0", kind, arm, policy, accuracy, figure, None)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([("all", 0.90, 0.01), ("last", 0.90, 0.20), ("none", 0.90, 0.60)], "all"),
        ([("all", 0.90, 0.30), ("last", 0.90, 0.05), ("none", 0.90, 0.60)], "last"),  # the safest wins
        ([("all", 0.90, 0.06), ("last", 0.90, 0.05), ("none", 0.90, 0.60)], "all"),  # a tie: most trainable
        ([("all", 0.70, 0.01), ("last", 0.90, 0.05), ("none", 0.89, 0.60)], "last"),  # all costs too much accuracy
        ([(2, 0.90, 0.05), ("last", 0.90, 0.05)], 2),
        ([("all", 0.90, -0.20), ("last", 0.90, 0.00)], "all"),  # below zero is as safe as zero
    ],
)
def test_freeze_policy_is_the_safest_that_accuracy_allows(world, rows, wanted) -> None:
    cells = [cell(*row) for row in rows]
    cells += [cell("none", 0.99, 0.0, kind="clean"), cell("none", 0.99, 0.0, arm="undefended")]  # decide nothing
    choice = choose_policy(cells, build(world.spec, seed=0), accuracy_tolerance=0.03)
    assert choice.policy == wanted
    assert str(wanted) in choice.reason
    assert [r.policy for r in choice.table] == [row[0] for row in rows]


def test_a_name_of_the_target_is_looked_up_among_the_students_classes() -> None:
    assert drill.same_class("normal", ("covid", "normal")) == 1
    assert drill.same_class("pneumonia", ("covid", "normal")) is None


def test_cells_of_the_report_hold_plain_figures() -> None:
    row = cell("all", 0.9, 0.1).as_json()
    assert row["trigger_control"]["value"] == 0.1
    assert row["attack_success_rate"] is None
    assert np.isfinite(row["accuracy"])
