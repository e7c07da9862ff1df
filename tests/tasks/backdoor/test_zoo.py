"""The zoo: what stands in it, and what the pipeline makes of a planted teacher."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

from tasks.backdoor.zoo.plan import CLEAN, SIZES, zoo
from tasks.backdoor.zoo.protect import Bench, measure_teacher, protect, unprotected
from tasks.params import Backdoor

THRESHOLDS = {"trigger_control": 0.3, "patch_control": 0.6, "accuracy_minimum": 0.6}


def bench(world: Any, **thresholds: float) -> Bench:
    section = Backdoor(
        patch_fraction=0.1, search_images=60, search_steps=6, restarts=1, strip_blends=4, strip_false_refusals=0.05,
        mitigation=("unlearning",), mitigation_epochs=1, mitigation_learning_rate=1e-3, pruning_ratio=0.5,
    )  # fmt: skip
    recipe = world.recipe(8, 0.7).model_copy(update={"patch_adversarial": 1.0})
    few = (world.val[0][:60], world.val[1][:60])
    return Bench(
        world.train, world.val, few, world.test, world.spec.classes,
        recipe, recipe.model_copy(update={"epochs": 1}), section,
        THRESHOLDS | thresholds, seed=3,
    )  # fmt: skip


def test_the_zoo_holds_as_many_clean_teachers_as_backdoored_and_each_once() -> None:
    teachers = zoo("digest", 64, 7)
    kinds = Counter(t.attack == CLEAN for t in teachers)
    assert kinds == {True: 24, False: 24}
    assert len(set(teachers)) == len({t.seed for t in teachers if t.architecture == "simple_cnn"}) + 8
    backdoored = [t for t in teachers if t.attack != CLEAN]
    assert {t.attack for t in backdoored} == {"badnets", "imc", "latent", "blended", "clean_label"}
    assert {t.poison_rate for t in backdoored} >= {0.1, 0.01, 0.005}
    assert {t.side for t in backdoored} >= {5, 10, 20}
    assert {t.architecture for t in teachers} == set(SIZES)
    for attack in ("badnets", "imc", "latent"):
        assert len({t.seed for t in backdoored if t.attack == attack}) >= 3
    assert all(t.planned().target == t.target for t in backdoored)


def test_a_planted_trigger_is_trained_away_and_the_row_says_what_it_could_do_before(world: Any) -> None:
    teacher = copy.deepcopy(world.backdoored)
    plain = replace(bench(world), recipe=bench(world).recipe.undefended())
    before = unprotected(teacher, world.trigger, plain, planted=True)["before"]
    assert before["frozen"]["control"]["value"] > 0.5
    assert before["all"]["patch_control"]["n"] > 0
    row = protect(teacher, world.trigger, bench(world), planted=True)
    assert row["verdict"] == "promoted"
    assert row["mitigation"] == "as trained"
    assert row["after"]["control"]["value"] < 0.2
    assert row["after"]["accuracy"]["value"] > 0.8
    assert row["after"]["scan_control"]["n"] > 0
    assert row["after"]["scan_control"]["pattern"]
    assert row["reactivated"]["patch_control"]["n"] > 0
    told = measure_teacher(teacher, world.trigger, world.test, world.spec.classes)
    assert told["control"]["worst_class"] == world.spec.classes[1]
    assert told["control"]["value"] > 0.7


def test_what_cannot_be_made_safe_is_refused_and_the_row_names_what_was_tried(world: Any) -> None:
    row = protect(world.clean, world.trigger, bench(world, patch_control=-1.0), planted=False)
    assert row["verdict"] == "refused"
    assert row["mitigation"] == "none of as trained, unlearning"
    assert [(t["name"], t["passes"]) for t in row["tried"]] == [("as trained", False), ("unlearning", False)]
    assert row["tried"][0]["patch_control"] == row["after"]["patch_control"]
    assert set(unprotected(world.clean, world.trigger, bench(world), planted=False)["before"]) == {"all"}
