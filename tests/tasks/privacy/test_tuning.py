"""Tuning: searches find what is there, goals are met or said not to be, and what is proven and measured agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import GatehouseError
from tasks.privacy.accounting import composed_epsilon, epsilon, selected_epsilon
from tasks.privacy.scoring import Figure
from tasks.privacy.tabular import Table
from tasks.privacy.tuning import suggest
from tasks.privacy.tuning.bench import Setting, auc_of, plain, prepare, utilities
from tasks.privacy.tuning.goals import Goal, Point, choose, objective, pareto
from tasks.privacy.tuning.risk import measure_floor, measure_risk
from tasks.privacy.tuning.search import Search, Space, run_search

SUGGEST = "tasks.privacy.tuning.suggestion"


def table(n: int = 900, *, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 5))
    y = (x[:, 0] + 0.5 * x[:, 1] + rng.normal(0, 0.3, n) > 0).astype(np.int64)
    return Table(x.astype(np.float32), y, ("no", "yes"), tuple("abcde"), ())


def points() -> list[Point]:
    """Utility rises with ε, but for one point that is beaten."""
    rows = [(0.5, 0.80), (1.0, 0.86), (2.0, 0.85), (4.0, 0.90)]
    return [
        Point(Setting(64, 10, 1.0, 0.1, 1 / e), e, min(0.9, e / 8), u, Figure(value=e / 20, low=0, high=e / 10))
        for e, u in rows
    ]


def test_parts_are_disjoint_and_alike_by_class() -> None:
    own = table()
    ground = prepare(own, hidden=(), seed=1)
    rows = np.concatenate([ground.train, ground.select, ground.report])
    assert np.array_equal(np.sort(rows), np.arange(len(own)))
    shares = [own.y[part].mean() for part in (ground.train, ground.select, ground.report)]
    assert max(shares) - min(shares) < 0.01


def test_settings_learn_and_noise_costs() -> None:
    ground = prepare(table(), hidden=(), seed=0)
    private = [Setting(64, 10, 1.0, 0.3, noise) for noise in (0.5, 300.0)]
    found = utilities(ground, [*plain(private[:1]), *private], repeats=3, rows=ground.select, seed=0)
    assert found.shape == (3, 3)
    free, little, much = found.mean(1)
    assert free > 0.9
    assert little > 0.85
    assert much < little - 0.1


def test_auc_of_several_classes_is_the_mean_of_each_against_the_rest() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    perfect = np.eye(3)[labels]
    assert auc_of(perfect, labels) == 1.0
    assert auc_of(-perfect, labels) == 0.0
    assert auc_of(np.zeros((6, 3)), labels) == 0.5
    assert auc_of(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 0.5]]), np.array([0, 1, 0])) == 1.0


@pytest.mark.parametrize("kind", ["grid", "bayes", "halving"])
def test_every_search_finds_the_best_of_a_known_surface_and_goes_on(kind: Search, tmp_path: Path) -> None:
    space = Space(((64, 10), (256, 10)))
    asked: list[Setting] = []

    def judge(settings, repeats, seed):  # type: ignore[no-untyped-def]
        asked.extend(settings)
        noise = np.random.default_rng(seed).normal(0, 0.01, (len(settings), repeats))
        surface = [-abs(np.log(s.clip)) - abs(np.log(s.step / 0.3)) - (s.batch_size == 64) for s in settings]
        return np.array(surface)[:, None] + noise

    options = {"seed": 1, "name": "known", "storage": f"sqlite:///{tmp_path / 'trials.db'}"}
    noise = lambda b, e: 2.0 if b == 64 else 3.0  # noqa: E731
    tried = run_search(kind, space, noise, judge, trials=60, **options)
    best = tried[0].setting
    assert best.batch_size == 256
    assert best.noise == 3.0
    assert abs(np.log(best.clip)) + abs(np.log(best.step / 0.3)) < 1.0
    if kind == "grid":
        assert (best.clip, best.step) == (1.0, 0.3)
        assert len({(s.batch_size, s.clip, s.step) for s in asked}) == len(asked) == 40
    before = len(asked)
    again = run_search(kind, space, noise, judge, trials=60, **options)
    assert again[0].setting == best
    if kind != "halving":  # which repeats its finalists
        assert len(asked) == before


@given(st.permutations(range(4)))
def test_the_front_holds_what_nothing_beats_in_any_order(order: list[int]) -> None:
    own = points()
    assert [p.epsilon for p in pareto([own[i] for i in order])] == [0.5, 1.0, 4.0]


def test_goals_choose_and_say_when_they_cannot() -> None:
    def at(goal: Goal) -> tuple[float, str]:
        point, note = choose(goal, points(), utility=0.92, accuracy=0.7)
        return point.epsilon, note

    assert at(Goal("epsilon", 3.0)) == (1.0, "")  # ε = 2 is allowed, and worse
    assert at(Goal("utility_loss", 0.07)) == (1.0, "")
    assert at(Goal("advantage", 0.2)) == (1.0, "")
    assert "the least loss found is 0.020, at ε = 4" in at(Goal("utility_loss", 0.01))[1]
    assert at(Goal("epsilon", 0.1)) == (0.5, "no setting proves epsilon ≤ 0.1: the least found is 0.5")
    assert at(Goal("trade_off", 0.99))[0] == 4.0
    assert at(Goal("trade_off", 0.01))[0] == 0.5
    point = points()[1]
    wanted = 0.3 * (0.86 - 0.92) + 0.7 * (0.7 - (0.5 + 0.05 / 2))
    assert objective(0.3, point, utility=0.92, accuracy=0.7) == pytest.approx(wanted)
    with pytest.raises(GatehouseError, match="trade_off must lie between 0 and 1, not 1"):
        Goal("trade_off", 1.0)


def test_what_all_trainings_spend_is_at_least_what_one_does() -> None:
    one = (2.0, 0.1, 50)
    alone = composed_epsilon([one], delta=1e-5)
    assert alone == pytest.approx(epsilon(noise_multiplier=2.0, sample_rate=0.1, steps=50, delta=1e-5), rel=0.02)
    double = composed_epsilon([one, one], delta=1e-5)
    longer = epsilon(noise_multiplier=2.0, sample_rate=0.1, steps=100, delta=1e-5)
    assert double == pytest.approx(longer, rel=0.02)
    assert composed_epsilon([one, (3.0, 0.2, 10)], delta=1e-5) > alone
    assert composed_epsilon([], delta=1e-5) == 0
    assert composed_epsilon([(0.0, 0.1, 5)], delta=1e-5) == float("inf")


def test_a_random_search_stops_at_random_and_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[Setting] = []

    def judge(settings, repeats, seed):  # type: ignore[no-untyped-def]
        asked.extend(settings)
        return np.full((len(settings), repeats), 0.5)

    space, counts = Space(((64, 10),)), []
    for i in range(30):
        asked.clear()
        run_search("random", space, lambda *_: 1.0, judge, trials=6, seed=1, name=f"s{i}")
        assert all(s.clip in space.clips and s.step in space.steps for s in asked)
        counts.append(len(asked))
    assert min(counts) >= 1
    assert len(set(counts)) > 4
    assert 2 < np.mean(counts) < 14
    asked.clear()
    options = {"seed": 1, "name": "kept", "storage": f"sqlite:///{tmp_path / 'trials.db'}"}
    for _ in range(2):
        tried = run_search("random", space, lambda *_: 1.0, judge, trials=6, **options)
    assert len(tried) == len(asked)


def test_selection_at_random_costs_a_small_multiple() -> None:
    one = (2.866, 256 / 2400, 375)
    alone = epsilon(noise_multiplier=one[0], sample_rate=one[1], steps=one[2], delta=4e-5)
    random = selected_epsilon([one], trials=96, delta=4e-5)
    assert alone < random < 3.5 * alone
    assert random < composed_epsilon([one] * 96, delta=4e-5) / 5
    assert selected_epsilon([one, (1.0, 0.1, 50)], trials=5, delta=4e-5) >= selected_epsilon(
        [one], trials=5, delta=4e-5
    )
    assert selected_epsilon([(0.0, 0.1, 5)], trials=5, delta=1e-5) == float("inf")


def test_memory_is_measured_and_privacy_takes_it_away() -> None:
    """Labels at random can only be learnt by heart; noise hides who was there, and the audit stays below the proof."""
    own = table(600)
    own = Table(own.x, np.random.default_rng(3).integers(0, 2, 600), own.classes, own.features, ())
    ground = prepare(own, hidden=(64,), seed=0)
    open_, hidden = Setting(64, 60, 1e6, 3e5, 0.0), Setting(64, 20, 1.0, 0.3, 4.0)
    delta = 1e-4
    rate, steps = hidden.schedule(ground.records)
    proven = epsilon(noise_multiplier=4.0, sample_rate=rate, steps=steps, delta=delta)
    assert measure_risk(ground, open_, seed=1)[0].membership_advantage.value > 0.15
    assert measure_risk(ground, hidden, seed=1)[0].membership_advantage.low < 0.05
    assert measure_floor(ground, open_, delta=delta, seed=2).epsilon > 1.0
    floor = measure_floor(ground, hidden, delta=delta, seed=2)
    assert floor.epsilon <= proven
    assert floor.guessed == 2 * int(0.1 * floor.canaries * floor.networks)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SCHEDULES": ((32, 4), (64, 4)), "LEVELS": (1.0, 8.0), "CONFIRMED": 3}.items():
        monkeypatch.setattr(f"{SUGGEST}.{name}", value)
    for name, value in {"REFERENCES": 8, "ATTACKED": 2}.items():
        monkeypatch.setattr(f"tasks.privacy.tuning.risk.{name}", value)


@pytest.mark.parametrize("goal", [Goal("epsilon", 2.5), Goal("advantage", 0.2), Goal("trade_off", 0.5)])
def test_a_suggestion_keeps_to_its_goal_and_recomputes(small: None, goal: Goal) -> None:
    found = suggest(table(), goal, trials=8, hidden=(), seed=5)
    own = found.chosen
    rate, steps = own.setting.schedule(found.records)
    again = epsilon(noise_multiplier=own.setting.noise, sample_rate=rate, steps=steps, delta=found.delta)
    assert own.epsilon == pytest.approx(again, rel=1e-9)
    assert found.note == ""
    if goal.name == "epsilon":
        assert own.epsilon <= 2.5
    if goal.name == "advantage":
        assert own.advantage_ceiling <= 0.2
    assert found.floor.epsilon <= own.epsilon
    assert found.tuning_epsilon > own.epsilon
    assert found.report["auc"] > 0.7
    assert found.baseline["report_auc"] > found.report["auc"] - 0.05
    assert found.as_json()["suggestion"]["epsilon"] == pytest.approx(own.epsilon, abs=1e-6)


def test_a_random_search_gives_its_best_and_its_cost(small: None) -> None:
    found = suggest(table(), Goal("epsilon", 2.0), search="random", trials=4, hidden=(), seed=5)
    assert len(found.points) == 1
    assert found.chosen.epsilon <= 2.0 < found.tuning_epsilon < 12
    with pytest.raises(GatehouseError, match="random search answers a wanted ε or advantage"):
        suggest(table(), Goal("trade_off", 0.5), search="random")


def test_too_few_records_for_a_batch_are_one_clear_error() -> None:
    with pytest.raises(GatehouseError, match="72 training records are too few for batches of 64"):
        suggest(table(120), Goal("epsilon", 3.0))
