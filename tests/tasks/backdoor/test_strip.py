"""STRIP against the formula, and on a model whose backdoor is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from torch import Tensor, nn

from tasks.backdoor.defences.strip import auroc, calibrate_alpha, class_entropy, entropies, refused, set_threshold
from tasks.backdoor.filtering import UNCALIBRATED, measure_filter
from tasks.backdoor.triggers import square
from tasks.models.inference import as_float, logits

rows = st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=5)


@given(rows)
def test_entropy_is_that_of_each_answer_over_its_classes(values: list[list[float]]) -> None:
    scores = torch.tensor(values)
    shares = scores.double().softmax(1).numpy()
    np.testing.assert_allclose(class_entropy(scores).numpy(), scipy_entropy(shares, axis=1), atol=1e-6)


def test_confident_answers_have_no_entropy_even_when_they_differ_from_blend_to_blend() -> None:
    """The axis matters: over the blends these answers are as mixed as can be, over the classes not at all."""
    answers = torch.tensor([[50.0, 0.0], [0.0, 50.0]] * 8)
    assert float(class_entropy(answers).max()) < 1e-6


def test_blends_are_weighted_sums_of_input_and_overlay(world) -> None:
    """One overlay only: the mean over blends is the entropy of that one mixture."""
    image, overlay = world.val[0][:1], world.val[0][5:6]
    mixed = 0.7 * as_float(image) + 0.3 * as_float(overlay)
    wanted = scipy_entropy(logits(world.clean, mixed).softmax(1).numpy(), axis=1)
    found = entropies(world.clean, image, overlay, alpha=0.3, blends=4, seed=0)
    np.testing.assert_allclose(found, wanted, atol=0.02)  # bfloat16 arithmetic


class Steered(nn.Module):
    """Unsure of every image, and certain of class 0 once its upper left corner is brighter than half."""

    def forward(self, x: Tensor) -> Tensor:
        corner = x[:, :, :3, :3].mean((1, 2, 3))
        doubt = x.mean((1, 2, 3))
        return torch.stack([doubt + 60 * (corner - 0.5).clamp(min=0), 1 - doubt], 1)


def test_calibration_takes_the_weight_that_tells_triggered_images_best() -> None:
    """The trigger shows through up to a weight of about one half of dark overlays, and no further."""
    dark = np.random.default_rng(0).integers(0, 90, (60, 1, 16, 16), dtype=np.uint8)
    triggered = square(side=3, channels=1, image_size=16).apply_uint8(dark[:24])
    model = Steered()
    alpha, means = calibrate_alpha([(model, dark[:24], triggered)], dark, alphas=(0.9, 0.3), blends=8, seed=0)
    assert (alpha, means[0.3]) == (0.3, 1.0)
    assert means[0.9] < 0.9
    clean = entropies(model, dark[24:], dark, alpha=alpha, blends=8, seed=1)
    area, (worst, best) = auroc(clean, entropies(model, triggered, dark, alpha=alpha, blends=8, seed=1), seed=0)
    assert min(area, worst, best) > 0.99


def test_threshold_refuses_at_most_the_wanted_share_of_what_it_was_set_on() -> None:
    values = np.random.default_rng(0).random(200)
    threshold = set_threshold(values, false_refusals=0.05)
    assert refused(values, threshold)["value"] <= 0.05
    assert refused(values, threshold)["value"] > 0.03
    assert refused(values - 2, threshold)["value"] == 1.0


def test_report_holds_canaries_and_candidate_and_is_the_same_for_the_same_seed(world) -> None:
    val, test = (world.val[0][:24], world.val[1][:24]), (world.test[0][:12], world.test[1][:12])
    triggers = {"canary0": world.trigger}

    def report(canaries):
        return measure_filter(
            world.protected, canaries, triggers, val, test, blends=4, false_refusals=0.1, patch_fraction=0.1, seed=3
        )

    one = report({"canary0 (undefended)": (world.backdoored, world.trigger)})
    assert one.figures["calibrated"]
    area = one.figures["canaries"]["canary0 (undefended)"]["auroc"]
    assert area["low"] <= area["value"] <= area["high"]
    assert {name: list(kinds) for name, kinds in one.entropies.items()} == {
        "candidate": ["clean", "with the trigger of canary0"],
        "canary0 (undefended)": ["clean", "triggered"],
    }
    none = report({})
    assert (none.alpha, none.figures["calibrated"]) == (UNCALIBRATED, False)
    assert report({}).figures == none.figures


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_area_counts_low_entropy_as_suspicious(shift: float) -> None:
    clean = np.linspace(0, 0.5, 30)
    assert auroc(clean, clean + shift, seed=0)[0] == (1.0 if shift < 0 else 0.0)
