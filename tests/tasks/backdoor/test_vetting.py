"""Inspection beside references against planted truth: a backdoor stands out, a further clean model does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.backdoor.attacks.plant import Attack
from tasks.backdoor.calibration import calibrate
from tasks.backdoor.defences.shadow import FLOOR, answers, bank, log_odds, novelty
from tasks.backdoor.defences.steering import SPREAD, control_of, standing_out, steer
from tasks.backdoor.pictures import GAP, SIDE, shown
from tasks.backdoor.references import Order, Reference, key, plan, split, train_reference
from tasks.backdoor.triggers import Trigger
from tasks.backdoor.vetting import COMBINED, Inspection, Panel, inspect, make_panel, most_telling
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, build
from tasks.models.checkpoints import digest
from tasks.models.inference import as_float
from tasks.models.training import fit

FRACTION = 0.1


@pytest.fixture(scope="module")
def panel(world) -> Panel:
    models = []
    for seed in range(4):
        model = build(world.spec, seed=50 + seed)
        fit(model, world.train, world.val, world.recipe(4), policy="all", seed=50 + seed)
        models.append(model)
    return make_panel(models, world.val, patch_fraction=FRACTION, seed=0)


@pytest.fixture(scope="module")
def of_backdoored(world, panel: Panel) -> Inspection:
    return inspect(world.backdoored, panel)


def test_a_planted_backdoor_stands_out_and_a_further_clean_model_does_not(
    world, panel: Panel, of_backdoored: Inspection
) -> None:
    clean = inspect(world.clean, panel).scores
    for name in ("patch_peak", "feature_peak", "steering_patch"):
        assert of_backdoored.scores[name] > clean[name] + 0.5, name
    members = [inspect(panel.models[i], panel.without(i)).scores for i in range(3)]
    calibration = calibrate([*members, clean], [of_backdoored.scores], combined=COMBINED)
    assert calibration.verdict(of_backdoored.scores) == "inconclusive"  # four clean references allow no threshold
    assert calibration.statistic(of_backdoored.scores) > max(calibration.clean)
    assert calibration.score(of_backdoored.scores) > calibration.score(clean)


def test_the_probe_and_the_pattern_point_at_the_planted_place_and_class(
    world, panel: Panel, of_backdoored: Inspection
) -> None:
    told = most_telling(of_backdoored, panel)
    assert (told["family"], told["class"]) == ("patch", 1)
    assert "top_left" in told["probe"]
    best = max(of_backdoored.patches, key=lambda p: p.excess)
    assert (best.target_class, best.place) == (1, "top_left")
    assert control_of(world.backdoored, best, world.test) > 0.8
    assert best.excess == pytest.approx(best.own - best.references)
    assert max(control_of(m, best, world.test) for m in panel.models) < 0.7


def test_scores_repeat_and_leave_the_model_as_it_was(world, panel: Panel, of_backdoored: Inspection) -> None:
    before = digest(world.backdoored)
    assert inspect(world.backdoored, panel).scores == of_backdoored.scores
    assert digest(world.backdoored) == before


def test_a_model_that_is_like_the_references_is_not_novel(world, panel: Panel) -> None:
    own = panel.answers[0]
    scores = novelty(own, [own, own, own])
    assert scores["patch_peak"] == pytest.approx(np.log(1e-3), abs=1e-2)
    spread = np.std([r.shifts for r in panel.answers[1:]], 0, ddof=1) + FLOOR
    z = np.abs(own.shifts - np.mean([r.shifts for r in panel.answers[1:]], 0)) / spread
    patches = z.max(1)[np.array(own.families) == "patch"]
    expected = np.log(np.sort(patches)[-3:].mean() + 1e-3)
    assert novelty(own, panel.answers[1:])["patch_peak"] == pytest.approx(expected, rel=1e-5)


def test_log_odds_of_two_classes_are_the_difference_of_logits() -> None:
    two = torch.tensor([[1.0, 3.0], [0.5, -2.0]])
    assert torch.allclose(log_odds(two)[:, 1], two[:, 1] - two[:, 0])
    three = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    p = three.softmax(1)
    assert torch.allclose(log_odds(three), (p / (1 - p)).log(), atol=1e-4)


def test_probes_keep_images_in_range_and_change_them(world) -> None:
    x = as_float(world.val[0][:4])
    for probe in bank(1, 32, patch_fraction=FRACTION, seed=0):
        y = probe.apply(x)
        assert y.shape == x.shape, probe.name
        assert -1e-6 <= float(y.min()) <= float(y.max()) <= 1 + 1e-6, probe.name
    warp = next(p for p in bank(1, 32, patch_fraction=FRACTION, seed=0) if p.family == "warp")
    assert 0.005 < float((warp.apply(x) - x).abs().mean()) < 0.2
    assert len(answers(world.clean, world.val, [warp]).travel) == 1


def test_references_are_planned_with_several_attacks_places_and_targets(world) -> None:
    orders = plan(world.spec.classes, clean=3, canaries=8, images=480, seed=1)
    attacks = [o.attack for o in orders if o.attack]
    assert [o.name for o in orders[:3]] == ["clean0", "clean1", "clean2"]
    assert {a.name for a in attacks} == {"badnets", "blended", "imc"}
    assert {a.target for a in attacks} == set(world.spec.classes)
    assert len({a.place for a in attacks}) == 8
    assert len({o.seed for o in orders}) == len(orders)
    assert len({key(o, world.spec, world.val) for o in orders}) == len(orders)


def test_references_take_as_many_steps_on_few_images() -> None:
    steps = {n: [o.epochs * n for o in plan(("a", "b"), clean=3, canaries=1, images=n, seed=1)] for n in (80, 240, 480)}
    for few in (80, 240):
        assert steps[few][0] == steps[480][0] == 8 * 480
        assert steps[few][-1] == pytest.approx(steps[480][-1], rel=0.05)
    assert {o.epochs for o in plan(("a", "b"), clean=3, canaries=0, images=5000, seed=1)} == {8, 9, 10}


def test_a_reference_that_guesses_has_not_learnt(world) -> None:
    order = Order("clean0", 1, 1)
    guess = 1 / len(world.spec.classes)
    assert not Reference(order, world.clean, guess + 0.05, None).learnt
    assert Reference(order, world.clean, guess + 0.2, None).learnt


def test_training_and_held_out_images_are_apart_and_keep_every_class(world) -> None:
    train, held = split(world.train, seed=0)
    assert len(train[1]) + len(held[1]) == len(world.train[1])
    assert np.bincount(held[1]).tolist() == [24, 24, 24]
    assert not {i.tobytes() for i in train[0]} & {i.tobytes() for i in held[0]}


def test_a_canary_takes_and_a_clean_reference_has_no_success(world) -> None:
    attack = Attack("badnets", 0.12, "top_left", "white", 0.15, "columns", seed=3)
    canary = train_reference(Order("canary0", 3, 6, attack), world.spec, world.train, world.val)
    clean = train_reference(Order("clean0", 4, 2), world.spec, world.train, world.val)
    assert canary.took
    assert canary.success is not None
    assert canary.success > 0.9
    assert clean.success is None
    assert not clean.took


def test_an_excess_counts_by_its_own_place() -> None:
    usual = [np.array([5.0, 0.0]), np.array([6.0, 0.1]), np.array([4.0, -0.1])]
    assert standing_out(np.array([6.0, 2.0]), usual) == pytest.approx(np.log(2.0 / (0.1 + SPREAD)))
    assert standing_out(np.array([6.0, 0.0]), usual) < 0.1
    assert standing_out(np.array([-9.0, -9.0]), usual) == pytest.approx(np.log(0.1))


def test_steering_needs_references_and_two_classes(world, panel: Panel) -> None:
    one = world.val[1] == 0
    for references, images in (((), world.val), (panel.models, (world.val[0][one], world.val[1][one]))):
        with pytest.raises(GatehouseError, match="steering search needs"):
            steer(world.clean, references, images, patch_fraction=FRACTION, seed=0)


def test_a_model_that_answers_nan_is_refused(world, panel: Panel) -> None:
    broken: Classifier = build(world.spec, seed=0)
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    with pytest.raises(GatehouseError, match="not finite"):
        inspect(broken, panel)


def test_a_picture_shows_image_triggered_image_and_pattern() -> None:
    image = np.zeros((1, 32, 32), np.uint8)
    picture = shown(image, Trigger(torch.ones(1, 4, 4), 0, 28))
    assert picture.shape == (SIDE, 3 * SIDE + 2 * GAP, 3)
    assert picture[:, :SIDE].max() == 0
    assert picture[0, 2 * SIDE + GAP - 1].tolist() == [255, 255, 255]
    assert picture[:, SIDE + GAP : 2 * SIDE + GAP].mean() == pytest.approx(255 * 16 / 1024, rel=0.01)
    assert picture[:, -SIDE:].min() == 255
