"""A sleeping backdoor wakes within steps in which a model that never had it learns little; the records say so."""

from __future__ import annotations

import copy

import pytest

from tasks.backdoor.drill import control_by
from tasks.backdoor.reactivation import reactivate
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import digest
from tasks.models.inference import accuracy_of

TARGET = 1  # of the world's backdoor
FEW = {"poison_rate": 0.05, "limit": 120, "steps": 16, "learning_rate": 0.0003, "target_class": TARGET, "seed": 0}


@pytest.fixture(scope="session")
def asleep(world) -> Classifier:
    """The backdoored model averaged with the clean one, the backdoored share as large as keeps the trigger quiet."""
    for share in (0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6):
        model = copy.deepcopy(world.backdoored)
        clean = world.clean.state_dict()
        mixed = {
            k: share * v + (1 - share) * clean[k] if v.is_floating_point() else v for k, v in model.state_dict().items()
        }
        model.load_state_dict(mixed)
        if control_by(model, world.trigger, world.test).value < 0.1 and accuracy_of(model, world.test) > 0.9:
            return model
    raise AssertionError("no mixture is quiet and accurate")


def test_a_sleeping_backdoor_wakes_sooner_than_one_is_learned(world, asleep: Classifier) -> None:
    quiet = reactivate(asleep, world.train, world.test, world.trigger, **FEW)
    never = reactivate(world.clean, world.train, world.test, world.trigger, **FEW)
    assert quiet.before.value < 0.1
    assert quiet.relearned > never.relearned + 0.4
    assert quiet.at == never.at == (0, 4, 8, 12, 16)
    assert len(quiet.curve) == 5
    assert quiet.curve[0] == quiet.before.by_class[TARGET]
    assert quiet.curve[-1] == quiet.after.by_class[TARGET]
    assert quiet.poisoned_images == never.poisoned_images == 6


def test_the_model_given_stays_and_the_same_seed_gives_the_same_record(world) -> None:
    before = digest(world.clean)
    once, again = (
        reactivate(world.clean, world.train, world.test, world.trigger, limit=40, poison_rate=0.1, steps=3, seed=1)
        for _ in range(2)
    )
    assert once == again
    assert digest(world.clean) == before
    assert world.clean.training is False
    record = once.as_json()
    assert record["relearned"] == pytest.approx(record["after"]["value"] - record["before"]["value"], abs=2e-6)
    assert record["at"][0] == 0
    assert record["at"][-1] == 3
    assert record["poisoned_images"] == 4


def test_without_a_target_the_class_most_raised_now_is_taken(world) -> None:
    raised = control_by(world.backdoored, world.trigger, world.test).worst_class
    found = reactivate(
        world.backdoored, world.train, world.test, world.trigger, limit=40, poison_rate=0.1, steps=1, seed=0
    )
    assert found.target_class == raised == TARGET


def test_too_little_to_poison_is_one_clear_error(world) -> None:
    with pytest.raises(GatehouseError, match="at least two images"):
        reactivate(world.clean, (world.train[0][:1], world.train[1][:1]), world.test, world.trigger, seed=0)
    with pytest.raises(GatehouseError, match="poisons none"):
        reactivate(world.clean, world.train, world.test, world.trigger, limit=10, poison_rate=0.01, seed=0)
