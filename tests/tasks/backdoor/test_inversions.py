"""Inversion in pixels and in features, and the two inspections without a scan, on planted truth."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tasks.backdoor.defences.boundary import decoupled, shaken
from tasks.backdoor.defences.feature_inversion import Channels, fewness, invert_features
from tasks.backdoor.defences.mask_inversion import WORKS, Mask, invert_masks, smallness
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import as_float, logits


@pytest.fixture(scope="module")
def of_backdoored(world) -> list[Mask]:
    return invert_masks(world.backdoored, world.val, steps=160, seed=0)


def test_the_planted_class_has_the_smallest_mask_and_it_lies_on_the_trigger(world, of_backdoored: list[Mask]) -> None:
    assert [m.target_class for m in of_backdoored] == [0, 1, 2]
    planted = of_backdoored[1]
    assert planted.works
    assert planted.size == min(m.size for m in of_backdoored if m.works)
    assert planted.size < 40
    down, right = np.unravel_index(int(planted.mask.argmax()), planted.mask.shape)
    assert max(down, right) < 8
    assert planted.success - planted.clean > 0.5


def test_success_is_measured_with_the_mask_that_is_returned(world, of_backdoored: list[Mask]) -> None:
    planted = of_backdoored[1]
    others = world.test[1] != 1
    after = logits(world.backdoored, planted.apply(as_float(world.test[0][others]))).argmax(1).numpy()
    assert (after == 1).mean() > WORKS - 0.15
    assert float(planted.mask.sum()) == pytest.approx(planted.size, rel=1e-5)


def test_a_blend_is_one_opacity_for_the_whole_image(world) -> None:
    found = invert_masks(world.clean, world.val, kind="blend", steps=40, seed=0)
    for mask in found:
        assert float(mask.mask.min()) == float(mask.mask.max())
        assert mask.size == pytest.approx(float(mask.mask[0, 0]) * 32 * 32, rel=1e-4)


def test_two_classes_are_handled_and_smallness_counts_only_what_works(world) -> None:
    spec = ModelSpec(architecture="simple_cnn", classes=("rows", "columns"), image_size=32)
    model = build(spec, seed=0)
    keep = world.val[1] < 2
    found = invert_masks(model, (world.val[0][keep], world.val[1][keep]), steps=16, seed=0)
    assert len(found) == 2
    broken = [Mask(0, "patch", torch.ones(4, 4), torch.ones(1, 4, 4), 1.0, 0.1, 0.0)]
    working = [*broken, Mask(1, "patch", torch.ones(4, 4), torch.ones(1, 4, 4), 8.0, 1.0, 0.0)]
    assert smallness(broken) == pytest.approx(-np.log(16))
    assert smallness(working) == pytest.approx(-np.log(8))


def _with_a_channel_that_decides(world) -> Classifier:
    """A copy of the clean model in which feature 0 alone can bring any image to class 2."""
    model = copy.deepcopy(world.clean)
    with torch.no_grad():
        model.head.weight[2, 0] = 400.0
        model.head.weight[:2, 0] = 0.0
    return model


def test_a_class_that_one_channel_reaches_is_seen_in_features(world) -> None:
    usual = invert_features(world.clean, world.val, seed=0)
    easy = invert_features(_with_a_channel_that_decides(world), world.val, seed=0)
    assert easy[2].works
    assert easy[2].share < 0.6 * usual[2].share
    assert fewness(easy) > fewness(usual)
    assert fewness([Channels(0, 0.5, 0.2)]) == 0.0


def test_boundary_figures_lie_in_their_range_and_rise_with_a_bias_to_one_class(world) -> None:
    for model in (world.clean, world.backdoored):
        assert 0 <= decoupled(model, world.val, seed=0) <= 1
        assert 0 <= shaken(model, world.val) <= 1
    tilted = copy.deepcopy(world.clean)
    others = world.val[1] != 1
    output = logits(tilted, world.val[0][others])
    lead = output.amax(1) - output[:, 1]
    with torch.no_grad():  # class 1 now loses every other image by a little
        tilted.head.bias[1] += 0.9 * lead.quantile(0.2)
    assert shaken(tilted, world.val) > shaken(world.clean, world.val) + 0.02


def test_one_class_alone_cannot_be_inspected(world) -> None:
    one = world.val[0][world.val[1] == 0], world.val[1][world.val[1] == 0]
    for inspect in (invert_masks, invert_features, decoupled):
        with pytest.raises(GatehouseError, match="at least two classes"):
            inspect(world.clean, one, seed=0)
    with pytest.raises(GatehouseError, match="at least two classes"):
        shaken(world.clean, one)
