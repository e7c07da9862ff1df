"""Filters of inputs: each against what is known by construction, on a model whose backdoor is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.backdoor.defences import occlusion, scaling
from tasks.backdoor.defences.deviation import deviation, fit_clean
from tasks.backdoor.input_filters import (
    CHEAPEST,
    Settings,
    choose,
    compare_filters,
    make_filters,
    share_refused,
    split_clean,
    tell_apart,
)
from tasks.backdoor.triggers import square
from tasks.errors import GatehouseError
from tasks.models.checkpoints import digest
from tasks.models.inference import features, logits
from tasks.stats import threshold_of

SETTINGS = Settings(alpha=0.3, blends=4, patch_fraction=0.1, seed=0)


@given(st.integers(8, 80), st.integers(2, 8))
def test_every_square_of_half_a_covers_side_lies_whole_under_one_cover(size: int, half: int) -> None:
    side = min(2 * half, size // 2)
    starts = occlusion.grid(size, side)
    assert all(0 <= s <= size - side for s in starts)
    for trigger in range(size - side // 2 + 1):
        assert any(s <= trigger and trigger + side // 2 <= s + side for s in starts)


def test_a_cover_shows_what_surrounds_it_and_nothing_else_changes(world) -> None:
    flat = np.full((1, 1, 16, 16), 90, np.uint8)
    x = torch.from_numpy(flat).float() / 255
    torch.testing.assert_close(occlusion.surroundings(x, 4), x)
    margin, covered = occlusion.covered_margins(world.clean, np.full((2, 1, 32, 32), 90, np.uint8), side=8)
    torch.testing.assert_close(covered, margin[:, None].expand_as(covered), atol=0.05, rtol=0.02)


def test_margins_are_those_of_the_answer_before_any_cover(world) -> None:
    images = world.test[0][:6]
    found, _ = occlusion.covered_margins(world.clean, images, side=8)
    ordered = logits(world.clean, images).sort(1).values
    torch.testing.assert_close(found, ordered[:, -1] - ordered[:, -2], atol=0.2, rtol=0.05)  # bfloat16 arithmetic


def test_the_place_that_decides_is_the_triggers(world) -> None:
    others = world.test[0][world.test[1] != 1][:20]
    _, covered = occlusion.covered_margins(world.backdoored, world.trigger.apply_uint8(others), side=6)
    assert (covered.argmin(1) == 0).float().mean() > 0.7  # the first place is the upper left corner


def test_amplification_multiplies_scale_and_shift_of_the_last_layers_of_a_copy(world) -> None:
    before = digest(world.clean)
    amplified = scaling.amplified(world.clean, 2, 3.0)
    assert digest(world.clean) == before
    same, more = (
        [m for m in net.blocks.modules() if isinstance(m, torch.nn.BatchNorm2d)] for net in (world.clean, amplified)
    )
    assert scaling.normalisations(world.clean) == len(same) == 5
    for i, (a, b) in enumerate(zip(same, more, strict=True)):
        torch.testing.assert_close(b.weight, a.weight * (3 if i >= 3 else 1))
        torch.testing.assert_close(b.bias, a.bias * (3 if i >= 3 else 1))


def test_the_scale_is_the_mildest_that_takes_enough_clean_answers_away(world) -> None:
    scale = scaling.calibrate_scale(world.clean, world.val[0], wanted=0.8)
    before = logits(world.clean, world.val[0]).argmax(1)
    after = logits(scaling.amplified(world.clean, scale.layers, scale.omega), world.val[0]).argmax(1)
    assert float((after == before).float().mean()) == pytest.approx(scale.kept, abs=0.03)
    stronger = scaling.calibrate_scale(world.clean, world.val[0], wanted=0.4)
    assert stronger.kept <= scale.kept
    scores = scaling.consistency(world.clean, world.val[0], scale)
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(scaling.consistency(world.clean, world.val[0][:3], scaling.Scale(0, 1.0, 1.0)), 1)


def test_deviation_is_mahalanobis_distance_of_features(world) -> None:
    known, new = world.val[0], world.test[0][:5]
    clean = fit_clean(world.clean, known)
    inside = features(world.clean, known).double().numpy()
    np.testing.assert_allclose(clean.mean, inside.mean(0), rtol=1e-6)
    away = features(world.clean, new).double().numpy() - inside.mean(0)
    wanted = [row @ clean.precision @ row for row in away]
    np.testing.assert_allclose(deviation(world.clean, new, clean), wanted, rtol=1e-6)
    covariance = np.linalg.inv(clean.precision)
    assert np.trace(covariance) == pytest.approx(np.cov(inside.T, bias=True).trace(), rel=1e-6)  # shrinking keeps it
    with pytest.raises(GatehouseError, match="at least 2 clean images"):
        fit_clean(world.clean, known[:1])


def test_a_known_backdoor_is_told_by_occlusion_and_by_deviation(world) -> None:
    reference, _ = split_clean(np.concatenate([world.train[0], world.val[0]]))
    filters = make_filters(world.backdoored, reference, SETTINGS)
    images = world.test[0][world.test[1] != 1][:30]
    for name in ("occlusion", "deviation"):
        told = tell_apart(world.backdoored, filters[name], images, world.trigger, seed=0)
        assert told["moved"] > 20
        assert told["auroc_moved"]["value"] > 0.9, name
        assert told["auroc_moved"]["low"] <= told["auroc_moved"]["value"] <= told["auroc_moved"]["high"]
    nothing = tell_apart(
        world.backdoored, filters["deviation"], images, square(side=2, channels=1, image_size=32, value=0.5), seed=0
    )
    assert nothing["auroc"]["value"] < 0.8  # a square that moves no answer


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=80), st.floats(0.01, 0.5))
def test_threshold_refuses_no_more_than_the_wanted_share(values: list[float], wanted: float) -> None:
    scores = np.array(values)
    assert share_refused(scores, threshold_of(scores, wanted))["value"] <= wanted + 1e-6
    assert share_refused(scores + 11, threshold_of(scores, wanted))["value"] == 1


def test_threshold_keeps_false_refusals_of_new_inputs_within_the_wanted_share_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    kept = [(rng.random(4000) > threshold_of(rng.random(192), 0.05)).mean() <= 0.05 for _ in range(300)]
    assert np.mean(kept) > 0.91  # .95 is promised; three standard deviations below
    assert share_refused(np.arange(192.0), threshold_of(np.arange(192.0), 0.05))["value"] == pytest.approx(
        4 / 192, 1e-4
    )
    assert threshold_of(np.arange(20.0), 0.05) == 19  # too few for the promise: the largest


@given(st.integers(2, 900))
def test_images_that_set_the_threshold_are_not_those_learned_from(n: int) -> None:
    images = np.arange(n).reshape(n, 1, 1, 1)
    reference, held = split_clean(images)
    assert len(reference)
    assert len(held)
    assert not set(reference.ravel()) & set(held.ravel())


def test_the_cheapest_of_the_best_is_chosen() -> None:
    def table(*areas: float | None) -> dict:
        return {name: {"mean_auroc": a} for name, a in zip(CHEAPEST, areas, strict=True)}

    assert choose(table(0.95, 0.9, 0.7, 0.955)) == "deviation"
    assert choose(table(0.90, 0.9, 0.7, 0.955)) == "occlusion"
    assert choose(table(None, None, None, None)) == "deviation"


def test_comparison_names_the_filter_to_use_and_repeats_itself(world) -> None:
    def report(canaries):
        return compare_filters(
            world.protected, canaries, {"canary0": world.trigger}, world.train[0][:48], world.test[0][:9],
            world.test[0][9:24], settings=SETTINGS, false_refusals=0.1,
        )  # fmt: skip

    one = report({"canary0 (undefended)": (world.backdoored, world.trigger)})
    assert one["calibrated"]
    assert set(one["filters"]) == set(CHEAPEST)
    best = max(row["mean_auroc"] for row in one["filters"].values())
    assert one["filters"][one["chosen"]]["mean_auroc"] >= best - 0.01
    assert best > 0.7
    row = one["filters"]["deviation"]
    assert row["false_refusals"]["n"] == 9
    assert set(row["candidate"]["canary0"]) == {
        "auroc", "auroc_moved", "moved", "refused", "refused_moved", "roc",
    }  # fmt: skip
    assert report({"canary0 (undefended)": (world.backdoored, world.trigger)}) == one
    none = report({})
    assert (none["calibrated"], none["chosen"], none["filters"]["strip"]["mean_auroc"]) == (False, "deviation", None)
