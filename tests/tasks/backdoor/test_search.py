"""The search against planted truth: a backdoor is found without its trigger, a patch-trained model is not accused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.backdoor.attacks.badnets import poison
from tasks.backdoor.control import class_controls
from tasks.backdoor.defences.inversion import invert
from tasks.backdoor.drill import control_by
from tasks.backdoor.optimise import Start, optimise_patches
from tasks.backdoor.patterns import PLACES, position, quantise, sides, simple_patterns
from tasks.backdoor.scan import frames, scan
from tasks.backdoor.search import Found, search
from tasks.backdoor.triggers import Trigger
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, build
from tasks.models.checkpoints import digest
from tasks.models.inference import as_float, frozen_copy, logits
from tasks.models.training import fit


def run(world, model: Classifier, *, seed: int = 0, steps: int = 10, restarts: int = 1) -> Found:
    small = world.val[0][:60], world.val[1][:60]
    return search(
        model, small, world.test, patch_fraction=0.1, search_steps=steps, restarts=restarts, seed=seed
    )  # fmt: skip


@pytest.fixture(scope="session")
def of_backdoored(world) -> Found:
    return run(world, world.backdoored)


@pytest.fixture(scope="session")
def of_protected(world) -> Found:
    return run(world, world.protected)


def test_a_planted_backdoor_is_found_where_it_was_planted(world, of_backdoored: Found) -> None:
    planted = control_by(world.backdoored, world.trigger, world.test)
    assert planted.value > 0.8
    assert of_backdoored.patch.value >= planted.value - 0.1
    assert of_backdoored.patch.worst_class == planted.worst_class == 1
    assert of_backdoored.worst_patch().place == "top_left"
    assert of_backdoored.worst_simple().pattern == "white"
    assert of_backdoored.grid["top_left"][1] > 0.8


def test_a_patch_trained_model_is_not_accused(of_protected: Found) -> None:
    assert of_protected.patch.high < 0.3
    assert of_protected.simple.high < 0.2


def test_a_planted_frame_is_found_and_counts_as_no_square(world) -> None:
    frame = Trigger(torch.ones(1, 32, 32), 0, 0, border=1)
    poisoned = poison(*world.train, trigger=frame, target_class=2, poison_rate=0.15, seed=4)
    marked = build(world.spec, seed=0)
    fit(marked, poisoned, world.val, world.recipe(6), policy="all", seed=0)
    planted = control_by(marked, frame, world.test)
    assert planted.value > 0.8
    found = run(world, marked)
    assert found.simple.value >= planted.value - 0.1
    assert (found.worst_simple().place, found.worst_simple().pattern) == ("border", "white")
    assert "border" not in {p.place for p in found.patches}


def test_a_frame_that_does_nothing_on_the_first_images_is_not_overlooked(monkeypatch) -> None:
    """A net by its word: a white frame steers every image from the 65th on, every other frame five of those before."""

    def answers(net: object, x: torch.Tensor) -> np.ndarray:
        white, framed = x[:, 0, 0].amin(1) == 1, x[:, 0, 0].amax(1) > 0
        own = x[:, 0, 8, 8]
        return torch.where(white, own == 0.75, framed & (own == 0.25)).long().numpy()

    x = torch.zeros(96, 1, 16, 16)
    x[:5, 0, 8, 8], x[64:, 0, 8, 8] = 0.25, 0.75
    monkeypatch.setattr("tasks.backdoor.scan.fast_predictions", answers)
    labels, before = np.tile([0, 2], 48), np.zeros(96, int)
    found = scan(None, x, labels, before, frames(16, 1, seed=0), classes=3)[1]  # type: ignore[arg-type]
    assert (found.pattern, found.target_class, found.search_control) == ("white", 1, pytest.approx(1 / 3))


def test_optimising_alone_finds_a_trigger_that_no_simple_pattern_is(world) -> None:
    """Starting from gray at the right corner, gradients alone must come to steer the backdoored model."""
    net, x, labels = frozen_copy(world.backdoored), as_float(world.val[0]), world.val[1]
    start = Start(1, "top_left", 0, 0, torch.full((1, 3, 3), 0.5))
    pattern = optimise_patches(net, x, labels, [start], classes=3, steps=15, seed=0).patterns[0]
    assert float(pattern.mean()) > 0.8  # the planted square is white
    assert 0 <= float(pattern.min()) <= float(pattern.max()) <= 1


def test_the_figure_is_measured_on_images_that_chose_nothing(world, of_backdoored: Found) -> None:
    clean = logits(world.backdoored, world.test[0]).argmax(1).numpy()
    after = [
        logits(world.backdoored, p.trigger.apply_uint8(world.test[0])).argmax(1).numpy() for p in of_backdoored.patches
    ]
    assert of_backdoored.patch == class_controls(clean, after, world.test[1])
    assert (of_backdoored.search_images, of_backdoored.held_out_images) == (60, len(world.test[1]))

    half = world.test[0][:90], world.test[1][:90]
    other = search(
        world.backdoored, (world.val[0][:60], world.val[1][:60]), half,
        patch_fraction=0.1, search_steps=10, restarts=1, seed=0,
    )  # fmt: skip
    assert [p.as_json() for p in other.patches] == [p.as_json() for p in of_backdoored.patches]
    assert other.patch.n < of_backdoored.patch.n


def test_same_seed_same_patches_and_the_model_stays_as_it_was(world, of_backdoored: Found) -> None:
    before = digest(world.backdoored)
    again = run(world, world.backdoored)
    assert again.as_json() == of_backdoored.as_json()
    for a, b in zip(again.patches, of_backdoored.patches, strict=True):
        assert torch.equal(a.trigger.pattern, b.trigger.pattern)
    assert digest(world.backdoored) == before
    assert all(p.requires_grad for p in world.backdoored.head.parameters())


def test_restarts_add_starting_patterns_and_never_lose_the_simple_ones(world) -> None:
    once, twice = run(world, world.clean, steps=3), run(world, world.clean, steps=3, restarts=2)
    assert twice.simple == once.simple
    for one, two in zip(once.simple_patches, twice.patches, strict=True):
        assert two.search_control >= one.search_control


def test_one_class_alone_cannot_be_searched(world) -> None:
    one = world.val[1] == 0
    with pytest.raises(GatehouseError, match="at least two classes"):
        search(
            world.clean, (world.val[0][one], world.val[1][one]), world.test,
            patch_fraction=0.1, search_steps=1, restarts=1, seed=0,
        )  # fmt: skip


def test_inversion_shrinks_to_a_square_no_larger_than_the_planted_one(
    world, of_backdoored: Found, of_protected: Found
) -> None:
    images = world.val[0][:60], world.val[1][:60]
    inverted = invert(world.backdoored, images, of_backdoored, steps=5, seed=0)
    assert inverted.sides[1] is not None
    assert inverted.sides[1] <= 3
    assert inverted.smallest == inverted.sides[1]
    assert invert(world.protected, images, of_protected, steps=5, seed=0).smallest is None


@pytest.mark.parametrize("side", [2, 3, 6])
@pytest.mark.parametrize("channels", [1, 3])
def test_patterns_fill_their_square_and_are_what_a_file_can_hold(side: int, channels: int) -> None:
    for name, pattern in simple_patterns(side, channels, seed=1).items():
        assert pattern.shape == (channels, side, side), name
        levels = quantise(pattern) * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert float(quantise(pattern).min()) >= 0
        assert float(quantise(pattern).max()) <= 1
    assert not np.array_equal(simple_patterns(side, 1, seed=1)["noise"], simple_patterns(side, 1, seed=2)["noise"])


def test_places_keep_patches_inside_and_reach_every_corner() -> None:
    spots = {position(place, 6, 64) for place in PLACES}
    assert {(0, 0), (0, 58), (58, 0), (58, 58), (29, 29)} <= spots
    assert all(0 <= top <= 58 and 0 <= left <= 58 for top, left in spots)
    assert sides(6) == (6, 3)
    assert sides(2) == (2,)
