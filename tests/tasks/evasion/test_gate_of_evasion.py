"""From curves to checks: what is counted, what makes the gate inconclusive, and what its drill catches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SPEC, TRAINING, Case, bright_squares

from tasks.errors import GatehouseError
from tasks.evasion import figures
from tasks.evasion.distance import distances
from tasks.evasion.measure import Attacker, Curve, Effort, Measured, measure
from tasks.evasion.reference import copied_students
from tasks.evasion.sample import Sample, check_pair, choose_sample
from tasks.evasion.sanity import sanity, sanity_check
from tasks.evasion.threat_models import BLACK_BOX, GRAY_BOX, THREAT_MODELS
from tasks.evasion.verdict import drill, points, reference_curves, success_check
from tasks.models.architectures import build
from tasks.models.inference import features, logits
from tasks.stats import clopper_pearson, proportion

BUDGETS = (0.02, 0.15)
EFFORT = Effort(BUDGETS, steps=8, queries=40, seed=0)


def attacker(case: Case) -> Attacker:
    return Attacker(case.teacher, SPEC, (case.train[0][:60], case.train[1][:60]), TRAINING)


@pytest.fixture(scope="module")
def measured(case: Case) -> Measured:
    return measure(case.copied, attacker(case), case.sample, EFFORT)


def curve(name: str, *rates: float, k: int = 200) -> Curve:
    """The first rate · k images are fooled, at each budget."""
    fooled = np.stack([np.arange(k) < round(r * k) for r in rates])
    return Curve(name, tuple(0.01 * (i + 1) for i in range(len(rates))), fooled, ("x",) * len(rates))


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


def test_a_model_that_gets_nothing_right_is_inconclusive_and_not_passed(case: Case) -> None:
    images, _ = bright_squares(12, seed=2)
    wrong = (logits(case.copied, images).argmax(1).numpy() + 1) % 3
    sample = choose_sample(case.copied, images, wrong, seed=0, source="x")
    nothing = measure(case.copied, attacker(case), sample, EFFORT)
    check = success_check(nothing.curves["gray_box"], 0.6)
    assert (check.n, check.status) == (0, "inconclusive")
    conditions = sanity(nothing, np.zeros(0, bool))
    assert all(c.holds is None for c in conditions)
    assert sanity_check(conditions).status == "inconclusive"
    row = points(nothing, BLACK_BOX)[0]
    assert row["success"]["value"] is row["queries_mean"] is row["dssim"] is None
    assert reference_curves([case.copied], nothing.crafted["gray_box"], sample, BUDGETS) == [[None, None]]
    assert not drill([case.copied], {"mimicry": sample.x}, sample.x, sample, 0.1, 0.6).trustworthy


def test_a_model_with_outputs_that_are_not_finite_is_one_clear_error(case: Case) -> None:
    broken = build(SPEC, seed=0)
    with torch.no_grad():
        broken.head.weight.fill_(torch.nan)
    with pytest.raises(GatehouseError, match=r"models/student answers 12 of 12 images with values that are not finite"):
        choose_sample(broken, *bright_squares(12, seed=0), seed=0, source="models/student")


@pytest.mark.parametrize("change", [{"image_size": 32}, {"channels": 3}])
def test_a_teacher_of_other_images_is_one_clear_error(change: dict[str, int]) -> None:
    check_pair(SPEC, SPEC.model_copy(update={"classes": ("x", "y")}))
    with pytest.raises(GatehouseError, match="The candidate takes images of 1 channel"):
        check_pair(SPEC, SPEC.model_copy(update=change))


# --- curves and checks ---------------------------------------------------------------------------------------------


def test_measured_curves_agree_with_asking_the_model_again(case: Case, measured: Measured) -> None:
    sample = case.sample
    for threat in THREAT_MODELS:
        for i, changed in enumerate(measured.crafted[threat.name]):
            answers = logits(case.copied, changed).argmax(1)
            assert measured.curves[threat.name].fooled[i].tolist() == (answers != sample.y).tolist()
            assert float((changed - sample.x).abs().max()) <= BUDGETS[i] + 1e-6
    assert set(measured.by_attack) == {*measured.through_teacher, "square", "substitute"}
    gray = measured.curves["gray_box"]
    assert gray.fooled[-1].sum() == max(measured.by_attack[name].sum() for name in measured.through_teacher)
    assert measured.queries.shape == (2, len(sample.y))
    assert 1 <= measured.queries.min() <= measured.queries.max() <= EFFORT.queries


def test_where_labels_are_all_that_is_answered_the_search_goes_by_labels(case: Case, measured: Measured) -> None:
    x, y = case.sample.x[:20], case.sample.y[:20]
    targets = torch.tensor([int((y != label).nonzero()[0]) for label in y])
    own = measure(
        case.copied,
        attacker(case),
        Sample(24, case.sample.rows[:20], x, y, targets),
        replace(EFFORT, labels_only=True),
    )
    assert "hop_skip_jump" in own.by_attack
    assert "square" not in own.by_attack
    black = own.curves["black_box"]
    for eps, images in zip(BUDGETS, own.crafted["black_box"], strict=True):
        assert float((images - x).abs().max()) <= eps + 1e-6
    assert black.fooled[0].sum() <= measured.curves["black_box"].fooled[0][:20].sum()  # labels tell less than scores


def test_a_copy_of_the_teacher_is_easy_prey(measured: Measured) -> None:
    check = success_check(measured.curves["gray_box"], 0.6)
    assert check.status == "failed"
    assert (check.observed or 0) > 0.7
    assert "38.2/255" in check.metric  # the largest budget
    for name in ("white_box", "black_box"):
        assert "5.1/255" in success_check(measured.curves[name], 0.6).metric  # the smallest


def test_a_student_that_never_saw_the_teacher_is_harder_to_fool_through_it(case: Case) -> None:
    images, labels = bright_squares(72, seed=2)
    sample = choose_sample(case.other, images, labels, seed=0, source="x")
    own = measure(case.other, attacker(case), sample, Effort((0.03,), steps=8, queries=10, seed=0))
    assert success_check(own.curves["gray_box"], 0.6).status == "passed"


def test_checks_count_with_exact_intervals() -> None:
    gray = curve("gray_box", 0.1, 0.3)
    check = success_check(gray, 0.4)
    assert (check.observed, check.ci, check.n) == (0.3, clopper_pearson(60, 200), 200)
    assert check.status == "passed"
    assert success_check(gray, 0.36).status == "failed"  # the interval's high end is above
    assert success_check(curve("white_box", 0.1, 0.9), 0.2).status == "passed"  # judged at the smallest budget


def test_points_count_success_among_the_right_and_accuracy_among_all() -> None:
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sample = Sample(250, np.arange(200), x, torch.zeros(200), torch.zeros(200))
    own = Measured(sample, {"gray_box": curve("gray_box", 0.25)}, {"gray_box": [x]}, {})
    (row,) = points(own, GRAY_BOX)
    assert row["success"] == proportion(50, 200)
    assert row["robust_accuracy"] == proportion(150, 250)
    assert (row["dssim"], row["l2"], row["strongest"]) == (0.0, 0.0, "x")
    assert proportion(0, 0) == {"value": None, "low": 0.0, "high": 1.0, "n": 0}


def test_distances_follow_their_definitions() -> None:
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert distances(x, x + 0.1)["l2"] == pytest.approx(0.1 * 16, abs=1e-5)
    assert distances(x, 1 - x)["dssim"] > 0.5  # structure turned around: SSIM below 0
    assert distances(x, x + 0.01)["dssim"] < 0.01


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
    noisy = measured.crafted["noise"][-1]
    tried = drill(copies, measured.through_teacher, noisy, case.sample, BUDGETS[-1], 0.6)
    assert (tried.planted, tried.clean) == (4, 4)
    assert tried.caught >= 3
    assert tried.trustworthy
    rates = reference_curves(copies, measured.crafted["gray_box"], case.sample, BUDGETS)
    assert all(row[0] < row[1] for row in rates)  # type: ignore[operator]


def test_an_attack_that_does_nothing_fails_the_drill(case: Case) -> None:
    copies = copied_students(case.teacher, *case.train, 3, count=4, seed=1)
    asleep = drill(copies, {"asleep": case.sample.x}, case.sample.x, case.sample, 0.15, 0.6)
    assert asleep.caught == 0
    assert not asleep.trustworthy


def test_a_threshold_that_nothing_can_fail_fails_the_drill(case: Case, measured: Measured) -> None:
    copies = copied_students(case.teacher, *case.train, 3, count=4, seed=1)
    noisy = measured.crafted["noise"][-1]
    assert not drill(copies, measured.through_teacher, noisy, case.sample, BUDGETS[-1], 1.0).trustworthy


# --- figures -------------------------------------------------------------------------------------------------------


def test_figures_are_small_pngs(tmp_path: Path, case: Case, measured: Measured) -> None:
    curves = measured.curves
    figures.accuracy_against_budget(tmp_path / "a.png", curves, case.sample, reference=[[0.2, 0.9], [None, 0.8]])
    crafted = {name: images[-1] for name, images in measured.crafted.items()}
    answers = {name: ["top → left"] * len(case.sample.y) for name in crafted}
    figures.strip(tmp_path / "b.png", case.sample, crafted, answers, BUDGETS[-1])
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert 5_000 < len(data) < 200_000
