"""From curves to checks: what is counted, what makes the gate inconclusive, and what its drill catches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIDE, Case, bright_squares

from tasks.errors import GatehouseError
from tasks.evasion import figures
from tasks.evasion.measure import Curve, Measured, Sample, check_pair, choose_sample, judge, measure
from tasks.evasion.reference import copied_students
from tasks.evasion.verdict import (
    drill,
    mimicry_check,
    pgd_check,
    points,
    proportion,
    reference_curves,
    sanity,
    sanity_check,
)
from tasks.gate import GateResult, Subject
from tasks.models.architectures import ModelSpec, build
from tasks.models.inference import features, logits
from tasks.stats import clopper_pearson

BUDGETS = (0.02, 0.15)


@pytest.fixture(scope="module")
def measured(case: Case) -> Measured:
    return measure(case.copied, case.teacher, case.sample, budgets=BUDGETS, steps=8, seed=0)


def curve(name: str, *rates: float, k: int = 200) -> Curve:
    """The first rate · k images are fooled, at each budget."""
    fooled = np.stack([np.arange(k) < round(r * k) for r in rates])
    return Curve(name, tuple(0.01 * (i + 1) for i in range(len(rates))), fooled)


def made(white: tuple[float, ...], gray: tuple[float, ...], noise: tuple[float, ...], k: int = 200) -> Measured:
    empty = torch.empty(0)
    sample = Sample(k, np.arange(k), empty, torch.zeros(k, dtype=torch.long), torch.zeros(k, dtype=torch.long))
    curves = {c.threat_model: c for c in (curve("white_box", *white, k=k), curve("gray_box", *gray, k=k))}
    return Measured(sample, {**curves, "noise": curve("noise", *noise, k=k)}, [], [], [])


# --- the sample ----------------------------------------------------------------------------------------------------


def test_the_sample_is_what_the_model_gets_right_with_targets_of_other_classes(case: Case) -> None:
    images, labels = bright_squares(72, seed=2)
    sample = case.sample
    right = logits(case.copied, images).argmax(1).numpy() == labels
    assert sample.n == 72
    assert sample.rows.tolist() == np.flatnonzero(right).tolist()
    assert bool((sample.y[sample.targets] != sample.y).all())
    sure = logits(case.copied, sample.x).softmax(1).amax(1)
    for label in range(3):
        own, aimed_at = sure[sample.y == label], sample.targets[sample.y[sample.targets] == label]
        assert sure[aimed_at].min() >= own.sort(descending=True).values[:10].min()
    again = choose_sample(case.copied, images, labels, seed=0, source="x")
    assert torch.equal(again.targets, sample.targets)


def test_a_model_that_knows_one_class_only_has_nobody_to_mimic(case: Case) -> None:
    images, labels = bright_squares(30, seed=2)
    sample = choose_sample(case.copied, images[labels == 0], labels[labels == 0], seed=0, source="x")
    assert len(sample.y)
    assert bool((sample.targets == -1).all())
    result = judge(case.copied, [sample.x], sample, (0.1,), "gray_box", aimed=True)
    assert result.targeted is not None
    assert not result.targeted.any()


def test_a_model_that_gets_nothing_right_is_inconclusive_and_not_passed(case: Case) -> None:
    images, _ = bright_squares(12, seed=2)
    wrong = (logits(case.copied, images).argmax(1).numpy() + 1) % 3
    sample = choose_sample(case.copied, images, wrong, seed=0, source="x")
    nothing = measure(case.copied, case.teacher, sample, budgets=BUDGETS, steps=2, seed=0)
    check = mimicry_check(nothing.curves["gray_box"], 0.6)
    assert (check.n, check.status) == (0, "inconclusive")
    conditions = sanity(nothing, np.zeros(0, bool))
    assert all(c.holds is None for c in conditions)
    assert sanity_check(conditions).status == "inconclusive"
    assert points(nothing.curves["white_box"], sample)[0]["success"]["value"] is None
    assert reference_curves([case.copied], nothing.mimicked, sample, BUDGETS) == [[None, None]]
    assert not drill([case.copied], sample.x, sample.x, sample, 0.1, 0.6).trustworthy


def test_a_model_with_outputs_that_are_not_finite_is_one_clear_error(case: Case) -> None:
    broken = build(ModelSpec(architecture="simple_cnn", classes=("a", "b", "c"), image_size=SIDE), seed=0)
    with torch.no_grad():
        broken.head.weight.fill_(torch.nan)
    with pytest.raises(GatehouseError, match=r"models/student answers 12 of 12 images with values that are not finite"):
        choose_sample(broken, *bright_squares(12, seed=0), seed=0, source="models/student")


@pytest.mark.parametrize("change", [{"image_size": 32}, {"channels": 3}])
def test_a_teacher_of_other_images_is_one_clear_error(change: dict[str, int]) -> None:
    spec = ModelSpec(architecture="simple_cnn", classes=("a", "b"), image_size=SIDE)
    check_pair(spec, spec.model_copy(update={"classes": ("x", "y", "z")}))
    with pytest.raises(GatehouseError, match="The candidate takes images of 1 channel"):
        check_pair(spec, spec.model_copy(update=change))


# --- curves and checks ---------------------------------------------------------------------------------------------


def test_measured_curves_agree_with_asking_the_model_again(case: Case, measured: Measured) -> None:
    sample = case.sample
    for name, images in (
        ("white_box", measured.pgd_images),
        ("gray_box", measured.mimicked),
        ("noise", measured.noisy),
    ):
        for i, changed in enumerate(images):
            answers = logits(case.copied, changed).argmax(1)
            assert measured.curves[name].fooled[i].tolist() == (answers != sample.y).tolist()
            assert float((changed - sample.x).abs().max()) <= BUDGETS[i] + 1e-6
    gray = measured.curves["gray_box"]
    assert gray.targeted is not None
    assert not (gray.targeted & ~gray.fooled).any()  # the wanted class is a wrong one


def test_a_copy_of_the_teacher_is_easy_prey_and_every_condition_holds(case: Case, measured: Measured) -> None:
    check = mimicry_check(measured.curves["gray_box"], 0.6)
    assert check.status == "failed"
    assert (check.observed or 0) > 0.7
    assert "38.2/255" in check.metric  # the largest budget
    assert "5.1/255" in pgd_check(measured.curves["white_box"], 0.6).metric  # the smallest
    conditions = sanity(measured, np.ones(20, bool))
    assert [c.name for c in conditions if not c.holds] == []
    assert sanity_check(conditions).status == "passed"


def test_a_student_that_never_saw_the_teacher_is_harder_to_fool(case: Case) -> None:
    images, labels = bright_squares(72, seed=2)
    sample = choose_sample(case.other, images, labels, seed=0, source="x")
    own = measure(case.other, case.teacher, sample, budgets=(0.05,), steps=8, seed=0)
    assert mimicry_check(own.curves["gray_box"], 0.6).status == "passed"


def test_checks_count_with_exact_intervals() -> None:
    gray = curve("gray_box", 0.1, 0.3)
    check = mimicry_check(gray, 0.4)
    assert (check.observed, check.ci, check.n) == (0.3, clopper_pearson(60, 200), 200)
    assert check.status == "passed"
    assert mimicry_check(gray, 0.36).status == "failed"  # the interval's high end is above
    assert pgd_check(curve("white_box", 0.1, 0.9), 0.2).status == "passed"  # judged at the smallest budget


def test_points_count_success_among_the_right_and_accuracy_among_all() -> None:
    sample = Sample(250, np.arange(200), torch.empty(0), torch.zeros(200), torch.zeros(200))
    row = points(curve("gray_box", 0.25), sample)[0]
    assert row["success"] == proportion(50, 200)
    assert row["robust_accuracy"] == proportion(150, 250)
    assert row["targeted_success"] is None
    assert proportion(0, 0) == {"value": None, "low": 0.0, "high": 1.0, "n": 0}


@pytest.mark.parametrize(
    ("broken", "white", "gray", "noise", "far"),
    [
        (None, (0.5, 1.0), (0.2, 0.4), (0.0, 0.1), 1.0),
        (None, (0.5, 0.49), (0.2, 0.195), (0.0, 0.1), 0.95),  # falls by no more than chance
        ("white_box_rises_with_budget", (0.8, 0.5), (0.2, 0.4), (0.0, 0.1), 1.0),
        ("gray_box_rises_with_budget", (0.8, 0.9), (0.6, 0.4), (0.0, 0.1), 1.0),
        ("white_box_at_least_gray_box", (0.5, 0.5), (0.2, 0.6), (0.0, 0.1), 1.0),
        ("white_box_at_least_noise", (0.05, 0.05), (0.0, 0.0), (0.0, 0.3), 1.0),
        ("large_budget_succeeds", (0.5, 1.0), (0.2, 0.4), (0.0, 0.1), 0.5),
    ],
)
def test_an_attack_that_does_not_behave_makes_the_gate_inconclusive(
    broken: str | None, white: tuple[float, ...], gray: tuple[float, ...], noise: tuple[float, ...], far: float
) -> None:
    own = made(white, gray, noise)
    conditions = sanity(own, np.arange(40) < round(40 * far))
    assert [c.name for c in conditions if not c.holds] == ([broken] if broken else [])
    result = GateResult(
        gate="adversarial",
        candidate="student",
        subject=Subject(path="m", sha256="0" * 64),
        policy_sha256="p",
        checks=(mimicry_check(own.curves["gray_box"], 0.9), sanity_check(conditions)),
    )
    assert result.verdict == ("inconclusive" if broken else "passed")


def test_no_condition_at_all_is_not_soundness() -> None:
    assert sanity_check(()).status == "inconclusive"


# --- the drill -----------------------------------------------------------------------------------------------------


def test_copies_share_every_feature_and_learn_their_own_heads(case: Case) -> None:
    images, labels = bright_squares(60, seed=6)
    copies = copied_students(case.teacher, *case.train, 3, count=2, seed=1)
    for student in copies:
        torch.testing.assert_close(features(student, images), features(case.teacher, images))
        assert float((logits(student, images).argmax(1).numpy() == labels).mean()) > 0.6
    assert not torch.equal(copies[0].head.weight, copies[1].head.weight)


def test_copies_of_two_classes_answer_as_the_regression_does(case: Case) -> None:
    images, labels = bright_squares(60, seed=6, classes=2)
    (student,) = copied_students(case.teacher, *bright_squares(120, seed=3, classes=2), 2, count=1, seed=0)
    assert student.head.out_features == 2
    assert float((logits(student, images).argmax(1).numpy() == labels).mean()) > 0.9


def test_a_class_without_training_images_is_never_answered(case: Case) -> None:
    (student,) = copied_students(case.teacher, *bright_squares(120, seed=3, classes=2), 3, count=1, seed=0)
    assert not (logits(student, bright_squares(60, seed=6)[0]).argmax(1) == 2).any()


def test_the_drill_catches_copies_and_accuses_nobody_for_noise(case: Case, measured: Measured) -> None:
    copies = copied_students(case.teacher, *case.train, 3, count=4, seed=1)
    tried = drill(copies, measured.mimicked[-1], measured.noisy[-1], case.sample, BUDGETS[-1], 0.6)
    assert (tried.planted, tried.clean) == (4, 4)
    assert tried.caught >= 3
    assert tried.trustworthy
    rates = reference_curves(copies, measured.mimicked, case.sample, BUDGETS)
    assert all(row[0] < row[1] for row in rates)  # type: ignore[operator]


def test_an_attack_that_does_nothing_fails_the_drill(case: Case) -> None:
    copies = copied_students(case.teacher, *case.train, 3, count=4, seed=1)
    asleep = drill(copies, case.sample.x, case.sample.x, case.sample, 0.15, 0.6)
    assert asleep.caught == 0
    assert not asleep.trustworthy


def test_a_threshold_that_nothing_can_fail_fails_the_drill(case: Case, measured: Measured) -> None:
    copies = copied_students(case.teacher, *case.train, 3, count=4, seed=1)
    assert not drill(copies, measured.mimicked[-1], measured.noisy[-1], case.sample, BUDGETS[-1], 1.0).trustworthy


# --- figures -------------------------------------------------------------------------------------------------------


def test_figures_are_small_pngs(tmp_path: Path, case: Case, measured: Measured) -> None:
    curves = measured.curves
    figures.accuracy_against_budget(tmp_path / "a.png", curves, case.sample, reference=[[0.2, 0.9], [None, 0.8]])
    crafted = {"white_box": measured.pgd_images[-1], "gray_box": measured.mimicked[-1], "noise": measured.noisy[-1]}
    answers = {name: ["top → left"] * len(case.sample.y) for name in crafted}
    figures.strip(tmp_path / "b.png", case.sample, crafted, answers, BUDGETS[-1])
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert 5_000 < len(data) < 150_000
