"""Attacks that do not behave, and models that hide their gradients, make the gate inconclusive and never pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import SPEC, TRAINING, Case, bright_squares
from torch import Tensor, nn

from tasks.evasion.measure import Attacker, Curve, Effort, Measured, measure
from tasks.evasion.sample import Sample, choose_sample
from tasks.evasion.sanity import sanity, sanity_check
from tasks.evasion.verdict import success_check
from tasks.gate import GateResult, Subject
from tasks.models.architectures import Classifier
from tasks.models.inference import logits

K = 200


def made(
    white: tuple[float, ...], gray: tuple[float, ...], black: tuple[float, ...], noise: tuple[float, ...], few: float
) -> Measured:
    """Curves in which the first rate · K images are fooled, at each budget."""

    def first(rate: float) -> np.ndarray:
        return np.arange(K) < round(rate * K)

    sample = Sample(K, np.arange(K), torch.empty(0), torch.zeros(K), torch.zeros(K))
    named = {"white_box": white, "gray_box": gray, "black_box": black, "noise": noise}
    curves = {n: Curve(n, (0.01, 0.02), np.stack([first(r) for r in rates])) for n, rates in named.items()}
    return Measured(sample, curves, {}, {}, fewer_steps=first(few))


def result(*checks) -> GateResult:  # type: ignore[no-untyped-def]
    return GateResult(
        gate="adversarial", candidate="student", subject=Subject(path="m", sha256="0" * 64), policy_sha256="p",
        checks=checks,
    )  # fmt: skip


SOUND = {
    "white": (0.5, 1.0), "gray": (0.2, 0.4), "black": (0.1, 0.3), "noise": (0.0, 0.1), "few": 0.45, "far": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "change"),
    [
        (None, {}),
        (None, {"white": (0.5, 0.49), "gray": (0.2, 0.195), "few": 0.51, "far": 0.95}),  # falls by no more than chance
        ("white_box_rises_with_budget", {"white": (0.8, 0.5)}),
        ("gray_box_rises_with_budget", {"white": (0.8, 0.9), "gray": (0.6, 0.4)}),
        ("black_box_rises_with_budget", {"black": (0.3, 0.1)}),
        ("more_steps_do_not_hurt", {"few": 0.7}),
        ("white_box_at_least_gray_box", {"white": (0.5, 0.5), "gray": (0.2, 0.6)}),
        ("white_box_at_least_black_box", {"white": (0.5, 0.5), "black": (0.2, 0.6)}),
        # The one condition that can be broken alone by little: a few images more than the white box, fewer beside.
        (
            "white_box_at_least_noise",
            {"white": (0.5, 0.5), "noise": (0.0, 0.545), "gray": (0.2, 0.52), "black": (0.2, 0.52)},
        ),
        ("gray_box_at_least_noise", {"gray": (0.0, 0.0)}),
        ("black_box_at_least_noise", {"black": (0.0, 0.0)}),
        ("large_budget_succeeds", {"far": 0.5}),
    ],
)  # fmt: skip
def test_an_attack_that_does_not_behave_makes_the_gate_inconclusive(broken: str | None, change: dict) -> None:
    own = SOUND | change
    measured = made(own["white"], own["gray"], own["black"], own["noise"], own["few"])
    conditions = sanity(measured, np.arange(40) < round(40 * own["far"]))
    assert [c.name for c in conditions if not c.holds] == ([broken] if broken else [])
    verdict = result(success_check(measured.curves["gray_box"], 0.9), sanity_check(conditions)).verdict
    assert verdict == ("inconclusive" if broken else "passed")


def test_no_condition_at_all_is_not_soundness() -> None:
    assert sanity_check(()).status == "inconclusive"


class Quantised(nn.Module):
    """Steps so coarse that no gradient passes; normalised images span about ±2."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 6).round() / 6


class Saturated(nn.Module):
    """A staircase of steep sigmoids: flat to the last bit of a float nearly everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.linspace(-2.25, 2.25, 10)
        return torch.sigmoid(400 * (x[..., None] - steps)).sum(-1) / 2 - 2.5


def masked(model: Classifier, mask: nn.Module) -> Classifier:
    """The same model behind an input layer that hides its gradients."""
    own = copy.deepcopy(model)
    own.blocks["block1"] = nn.Sequential(mask, own.blocks["block1"])
    return own


@pytest.mark.parametrize("mask", [None, Quantised(), Saturated()], ids=["plain", "quantised", "saturated"])
def test_hidden_gradients_never_pass(case: Case, mask: nn.Module | None) -> None:
    """The white box is judged alone and generously: a gate that trusted it would pass both masked models."""
    model = masked(case.other, mask) if mask else case.other
    images, labels = bright_squares(72, seed=2)
    sample = choose_sample(model, images, labels, seed=0, source="x")
    assert len(sample.y) > 50  # the mask costs the model little
    attacker = Attacker(case.teacher, SPEC, (case.train[0][:60], case.train[1][:60]), TRAINING)
    effort = Effort((0.04, 0.08), steps=10, queries=150, seed=0)
    measured = measure(model, attacker, sample, effort)
    far = measure(model, attacker, sample, Effort((0.5,), steps=10, queries=1, seed=0)).curves["white_box"].fooled[0]
    conditions = sanity(measured, far)
    verdict = result(success_check(measured.curves["white_box"], 0.9), sanity_check(conditions)).verdict
    failing = {c.name for c in conditions if not c.holds}
    if mask is None:
        assert failing == set()
        return
    assert not logits(model, sample.x).argmax(1).ne(sample.y).any()
    assert "white_box_at_least_black_box" in failing
    assert verdict == "inconclusive"
