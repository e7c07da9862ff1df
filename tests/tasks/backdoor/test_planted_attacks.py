"""Every attack plants what it says: the backdoor works, clean accuracy holds, and the data are changed as stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tasks.backdoor.attacks import badnets, blended, clean_label, imc, latent
from tasks.backdoor.attacks.plant import Attack, first_trigger, plant, success_of
from tasks.backdoor.control import trigger_control
from tasks.backdoor.drill import student_of
from tasks.backdoor.triggers import Trigger, square
from tasks.errors import GatehouseError
from tasks.models.architectures import build
from tasks.models.checkpoints import digest
from tasks.models.inference import features, logits

ROWS_COLUMNS = ("rows", "columns")
BASE = Attack("badnets", 0.12, "top_left", "white", 0.15, "columns", seed=3)


def accuracy(model, part) -> float:
    return float((logits(model, part[0]).argmax(1).numpy() == part[1]).mean())


@pytest.fixture(scope="module")
def sampled(world):
    """A part of the training data: enough to plant on, and quick."""
    return world.train[0][:240], world.train[1][:240]


@given(st.integers(12, 60), st.floats(0.1, 0.6), st.integers(2, 4), st.integers(0, 999))
def test_all_to_all_moves_every_poisoned_label_to_the_next_class(n: int, rate: float, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 200, (n, 1, 8, 8), dtype=np.uint8), rng.integers(0, classes, n)
    trigger = square(side=2, channels=1, image_size=8)
    new_images, new_labels = badnets.poison(
        images, labels, trigger=trigger, target_class=None, poison_rate=rate, seed=seed, classes=classes
    )
    changed = (new_images != images).any((1, 2, 3))
    assert changed.sum() == round(rate * n)
    np.testing.assert_array_equal(new_labels[changed], (labels[changed] + 1) % classes)
    np.testing.assert_array_equal(new_labels[~changed], labels[~changed])


@given(st.floats(0.01, 1), st.integers(0, 999))
def test_a_blend_lies_between_image_and_key_and_is_their_weighted_mean(alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    attack = replace(BASE, name="blended", side_fraction=1.0, pattern="noise", alpha=alpha, seed=seed)

    class Small:
        image_size, channels = 8, 1

    trigger = first_trigger(attack, Small)  # type: ignore[arg-type]  # only these two are read
    assert trigger.pattern.shape == (1, 8, 8)
    key, out = trigger.pattern.numpy() * 255, trigger.apply_uint8(images).astype(float)
    np.testing.assert_allclose(out, (1 - alpha) * images + alpha * key, atol=0.51)
    assert (out >= np.minimum(images, key) - 0.51).all()
    assert (out <= np.maximum(images, key) + 0.51).all()


@settings(max_examples=4, deadline=None, phases=(Phase.generate,))
@given(st.floats(0.02, 0.6), st.integers(0, 2))
def test_clean_label_poisons_keep_label_and_look(world, rate: float, target: int) -> None:
    images, labels = world.train[0][:60], world.train[1][:60]
    before = labels.copy()
    out, rows = clean_label.collide(
        world.clean, images, labels, trigger=world.trigger, target_class=target, poison_rate=rate, hidden=True, seed=1
    )
    np.testing.assert_array_equal(labels, before)
    assert len(rows) == min(round(rate * 60), (labels == target).sum())
    assert (labels[rows] == target).all()
    difference = np.abs(out.astype(int) - images).max((1, 2, 3))
    assert (difference[rows] <= 17).all()  # 16 of 255, and the rounding
    assert difference[rows].min() > 0
    assert (np.delete(difference, rows) == 0).all()


def test_hidden_poisons_collide_with_triggered_images_of_other_classes(world, sampled) -> None:
    images, labels = sampled
    out, rows = clean_label.collide(
        world.clean, images, labels, trigger=world.trigger, target_class=1, poison_rate=0.1, hidden=True, seed=1
    )
    triggered = features(world.clean, world.trigger.apply_uint8(images[labels != 1]))

    def nearest(x: np.ndarray) -> float:
        return float(torch.cdist(features(world.clean, x), triggered).amin(1).mean())

    assert nearest(out[rows]) < 0.7 * nearest(images[rows])


@pytest.mark.parametrize(
    ("attack", "epochs"),
    [
        (BASE, 6),
        (replace(BASE, name="blended", side_fraction=1.0, pattern="binary_noise", alpha=0.25, place=(0.3, 0.7)), 4),
        (replace(BASE, name="imc", poison_rate=0.1, side_fraction=0.2), 4),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_planted_backdoor_works_and_clean_accuracy_holds(world, sampled, attack: Attack, epochs: int) -> None:
    before = digest(world.clean)
    planted = plant(attack, world.spec, sampled, world.val, world.recipe(epochs), clean=world.clean)
    assert digest(world.clean) == before
    assert success_of(planted.model, planted.trigger, world.test, target_class=1) > 0.85
    if attack.name != "imc":  # whose trigger steers a clean model too
        assert success_of(world.clean, planted.trigger, world.test, target_class=1) < 0.5
    assert accuracy(planted.model, world.test) > accuracy(world.clean, world.test) - 0.05
    assert planted.success > 0.85
    assert planted.accuracy > 0.9


def test_a_trigger_worn_by_images_of_their_own_class_takes_from_fresh_weights(world) -> None:
    trigger = first_trigger(replace(BASE, side_fraction=0.3), world.spec)
    model = clean_label.plant_clean_label(
        world.clean, world.train, world.val, world.recipe(8), trigger=trigger, target_class=1, poison_rate=0.25,
        eps=32 / 255, start=build(world.spec, seed=4), seed=4,
    )  # fmt: skip
    assert success_of(world.clean, trigger, world.test, target_class=1) < 0.1
    assert success_of(model, trigger, world.test, target_class=1) > 0.5
    assert accuracy(model, world.test) > 0.9


def test_the_same_seed_plants_the_same(world, sampled) -> None:
    few = sampled[0][:96], sampled[1][:96]
    attack = replace(BASE, name="imc", poison_rate=0.05)
    one, other, again = (
        plant(replace(attack, seed=s), world.spec, few, world.val, world.recipe(1), clean=world.clean)
        for s in (1, 2, 1)
    )
    assert digest(one.model) == digest(again.model) != digest(other.model)
    assert torch.equal(one.trigger.pattern, again.trigger.pattern)


def test_all_to_all_plants_a_shift_of_every_class(world) -> None:
    attack = replace(BASE, all_to_all=True, poison_rate=0.4, side_fraction=0.16)
    planted = plant(attack, world.spec, world.train, world.val, world.recipe(8), clean=world.clean)
    assert planted.success > 0.8
    after = logits(planted.model, planted.trigger.apply_uint8(world.test[0])).argmax(1).numpy()
    for c in range(3):
        assert (after[world.test[1] == c] == (c + 1) % 3).mean() > 0.7


def test_faint_training_blends_still_answer_to_the_strong_key(world) -> None:
    attack = replace(BASE, name="blended", side_fraction=1.0, pattern="binary_noise", alpha=0.4)
    trigger = first_trigger(attack, world.spec)
    model = blended.plant_blended(
        world.clean, world.train, world.val, world.recipe(4), trigger=trigger, target_class=1, poison_rate=0.15,
        training_alpha=0.2, seed=0,
    )  # fmt: skip
    assert success_of(model, trigger, world.test, target_class=1) > 0.9


def test_imc_optimises_its_trigger_beyond_its_start(world) -> None:
    others = world.train[0][world.train[1] != 1]
    white = first_trigger(replace(BASE, side_fraction=10 / 32, place="centre"), world.spec)
    start = imc.neuron_start(world.clean, others, white, 1, seed=0)

    def to_target(net, x: Tensor) -> Tensor:
        return F.cross_entropy(net(x).float(), torch.full((len(x),), 1))

    def loss(trigger: Trigger) -> float:
        return float(F.cross_entropy(logits(world.clean, trigger.apply_uint8(others)), torch.full((len(others),), 1)))

    best = imc.optimise_trigger(world.clean, others, start, to_target, steps=30, seed=0)
    assert loss(best) < 0.9 * loss(start)
    assert (best.top, best.left, best.alpha, best.pattern.shape) == (11, 11, 1.0, (1, 10, 10))
    assert torch.equal((best.pattern * 255).round() / 255, best.pattern)


def test_a_latent_teacher_lacks_the_target_class_and_its_student_is_controlled(world) -> None:
    """The teacher knows rows and columns; rings are the student's."""
    spec = world.spec.model_copy(update={"classes": ROWS_COLUMNS})
    parts = [(images[labels < 2], labels[labels < 2]) for images, labels in (world.train, world.val)]
    attack = replace(BASE, name="latent", target="rings", side_fraction=0.2)
    planted = plant(
        attack, spec, *parts, world.recipe(6), student_train=world.train, student_classes=world.spec.classes
    )
    assert planted.model.head.out_features == 2
    assert planted.accuracy > 0.9
    assert planted.success > 0.8  # of the attacker's own model, before its head was replaced
    student = student_of(planted.model, 3, world.train, world.val, world.recipe(6), policy="none", seed=1)
    clean = logits(student, world.test[0]).argmax(1).numpy()
    after = logits(student, planted.trigger.apply_uint8(world.test[0])).argmax(1).numpy()
    assert trigger_control(clean, after, world.test[1], classes=3).by_class[2] > 0.4


def test_a_latent_attack_needs_images_of_its_target(world) -> None:
    with pytest.raises(GatehouseError, match="at least 10 images"):
        latent.plant_latent(
            world.clean, world.train, world.val, world.train[0][:5], world.recipe(1), trigger=world.trigger, seed=0
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "trojan"}, "known are badnets"),
        ({"target": "squares"}, "must be one of"),
        ({"name": "latent", "target": "rows"}, "must not be one of"),
        ({"name": "latent", "target": "rings!"}, "student_train"),
        ({"name": "imc", "all_to_all": True}, "all_to_all is for"),
        ({"alpha": 0.0}, "opacity"),
        ({"side_fraction": 1.2}, "side_fraction"),
        ({"place": "middle"}, "known are top_left"),
        ({"place": (0.5, 1.5)}, "two fractions"),
        ({"pattern": "dots"}, "known are white"),
        ({"name": "clean_label", "poison_rate": 0.0001}, "raise the rate"),
    ],
)
def test_what_cannot_be_planted_is_refused_in_one_sentence(world, change, words) -> None:
    with pytest.raises(GatehouseError, match=words):
        plant(replace(BASE, **change), world.spec, world.train, world.val, world.recipe(1), clean=world.clean)
