"""From a table and a goal to a setting: search at one ε, the front over others, attacks and an audit, fresh seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from tasks.errors import GatehouseError
from tasks.privacy.accounting import (
    advantage_ceiling,
    composed_epsilon,
    delta_for,
    epsilon,
    noise_for,
    noise_for_advantage,
    selected_epsilon,
)
from tasks.privacy.scoring import AttackFigures
from tasks.privacy.tabular import Table
from tasks.privacy.tuning.bench import Ground, Setting, plain, prepare, schedule, utilities
from tasks.privacy.tuning.goals import Goal, Point, choose, pareto
from tasks.privacy.tuning.risk import Floor, measure_floor, measure_risk, strongest_advantage
from tasks.privacy.tuning.search import Search, Space, Tried, run_search

LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of ε, for the front
ANCHOR = 2.0  # ε at which settings are searched where the goal names none
CARRIED = 8  # of the best settings, tried again at every level
REPEATS, CONFIRMED = 3, 10  # trainings of a point of the front, and of the suggestion, from fresh seeds
SCHEDULES = ((64, 10), (64, 40), (256, 10), (256, 40))  # batch size and epochs
Say = Callable[[str], None]
Line = Callable[[int, int], None]


@dataclass(frozen=True)
class Suggestion:
    """What to set, what it proves and leaks, and what it costs, each with its interval."""

    goal: Goal
    chosen: Point
    note: str  # "" where the goal is met
    delta: float
    records: int
    baseline: dict[str, Any]  # without privacy: its setting, AUC on both parts, attacks
    report: dict[str, float]  # AUC of the suggestion on records that nothing was chosen on, over fresh seeds
    attacks: tuple[AttackFigures, ...]
    floor: Floor
    front: tuple[Point, ...]
    points: tuple[Point, ...]
    trials: int
    tuning_epsilon: float

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "goal": asdict(self.goal),
            "note": self.note,
            "suggestion": self.chosen.as_json(),
            "delta": self.delta,
            "records": self.records,
            "baseline": self.baseline,
            "report": self.report,
            "attacks": [a.model_dump(mode="json") for a in self.attacks],
            "floor": asdict(self.floor),
            "front": [p.as_json() for p in self.front],
            "points": [p.as_json() for p in self.points],
            "tuning": {"trials": self.trials, "epsilon_with_tuning": round(self.tuning_epsilon, 6)},
        }


def suggest(
    table: Table,
    goal: Goal,
    *,
    search: Search = "bayes",
    trials: int = 96,
    hidden: tuple[int, ...] = (32,),
    target_delta: float = 0.0,
    seed: int = 7,
    name: str = "tuning",
    storage: str | None = None,
    say: Say = lambda _: None,
    progress: Line = lambda *_: None,
) -> Suggestion:
    """Tune private training on one table.

    Args:
        trials: settings that the search tries.
        hidden: widths of the network's hidden layers; none is logistic regression.
        target_delta: 0 for a tenth of one over the training records.
        name, storage: of Optuna's study and the URL where its trials are kept.

    Raises:
        GatehouseError: fewer training records than the smallest batch, or a goal that no noise reaches.
    """
    ground = prepare(table, hidden=hidden, seed=seed)
    delta = delta_for(ground.records, target_delta)
    schedules = tuple(s for s in SCHEDULES if s[0] * 2 <= ground.records)
    if not schedules:
        raise GatehouseError(
            f"{ground.records} training records are too few for batches of {SCHEDULES[0][0]}; add some."
        )
    if search == "random" and goal.name not in ("epsilon", "advantage"):
        raise GatehouseError(f"A random search answers a wanted ε or advantage, not {goal.name}; use another search.")
    sought = goal if goal.name in ("epsilon", "advantage") else Goal("epsilon", ANCHOR)

    @cache
    def noise_at(batch_size: int, epochs: int, wanted: Goal) -> float:
        rate, steps = schedule(ground.records, batch_size, epochs)
        if wanted.name == "advantage":
            return noise_for_advantage(wanted.value, sample_rate=rate, steps=steps)
        return noise_for(wanted.value, sample_rate=rate, steps=steps, delta=delta)

    def judge(settings: Sequence[Setting], repeats: int, own: int) -> np.ndarray:
        return utilities(ground, settings, repeats=repeats, rows=ground.select, seed=own)

    say("what can be learnt without privacy")
    space = Space(schedules)
    baseline_setting, baseline = _baseline(ground, space, seed)
    say(f"searching {trials} settings")
    tried = run_search(
        search,
        space,
        lambda b, e: noise_at(b, e, sought),
        judge,
        trials=trials,
        seed=seed,
        name=name,
        storage=storage,
    )
    trained = [t.setting for t in tried for _ in t.utilities]
    points = []
    if search == "random":  # the best itself: another look at the records would cost more than its proof says
        points.append(_point(ground, tried[0].setting, tried[0].mean, delta, seed))
    else:
        carried = _diverse(tried)
        levels = sorted({sought, *(Goal("epsilon", e) for e in LEVELS)}, key=lambda g: (g.name, g.value))
        for i, wanted in enumerate(levels):
            progress(i, len(levels))
            settings = [replace(t.setting, noise=noise_at(*_schedule(t.setting), wanted)) for t in carried]
            found = judge(settings, REPEATS, seed + 31 * (i + 1)).mean(1)
            trained += [s for s in settings for _ in range(REPEATS)]
            best = int(found.argmax())
            points.append(_point(ground, settings[best], float(found[best]), delta, seed))
        progress(len(levels), len(levels))
    attacks_plain = measure_risk(ground, baseline_setting, seed=seed + 1)
    accuracy = 0.5 + attacks_plain[0].membership_advantage.value / 2
    chosen, note = choose(goal, points, utility=baseline["selection_auc"], accuracy=accuracy)
    say("fresh seeds, attacks and audit of the suggestion")
    confirmed = utilities(ground, [chosen.setting], repeats=CONFIRMED, rows=ground.report, seed=seed + 4099)[0]
    spent = [(s.noise, *s.schedule(ground.records)) for s in trained]
    return Suggestion(
        goal=goal,
        chosen=chosen,
        note=note,
        delta=delta,
        records=ground.records,
        baseline=baseline | {"attacks": [a.model_dump(mode="json") for a in attacks_plain]},
        report={
            "auc": round(float(confirmed.mean()), 6),
            "sd": round(float(confirmed.std(ddof=1)), 6),
            "seeds": CONFIRMED,
        },
        attacks=measure_risk(ground, chosen.setting, seed=seed + 2),
        floor=measure_floor(ground, chosen.setting, delta=delta, seed=seed + 3),
        front=tuple(pareto(points)),
        points=tuple(points),
        trials=len(trained),
        tuning_epsilon=composed_epsilon(spent, delta=delta)
        if search != "random"
        else selected_epsilon(spent, trials=trials, delta=delta),
    )


def _baseline(ground: Ground, space: Space, seed: int) -> tuple[Setting, dict[str, Any]]:
    """The best training without privacy over schedules and learning rates, and its AUC on both parts."""
    settings = plain([Setting(b, e, 1.0, step, 0.0) for b, e in space.schedules for step in space.steps])
    found = utilities(ground, settings, repeats=REPEATS, rows=ground.select, seed=seed).mean(1)
    best = settings[int(found.argmax())]
    again = utilities(ground, [best], repeats=REPEATS, rows=ground.report, seed=seed + 5)[0]
    return best, {
        "setting": {
            "batch_size": best.batch_size,
            "epochs": best.epochs,
            "learning_rate": round(best.learning_rate, 6),
        },
        "selection_auc": round(float(found.max()), 6),
        "report_auc": round(float(again.mean()), 6),
        "sd": round(float(again.std(ddof=1)), 6),
    }


def _diverse(tried: Sequence[Tried]) -> list[Tried]:
    """The best settings, those of one schedule never more than half of them: what is best moves with ε."""
    taken: list[Tried] = []
    for t in tried:
        same = sum(_schedule(u.setting) == _schedule(t.setting) for u in taken)
        if len(taken) < CARRIED and same < CARRIED // 2:
            taken.append(t)
    return taken


def _schedule(setting: Setting) -> tuple[int, int]:
    return setting.batch_size, setting.epochs


def _point(ground: Ground, setting: Setting, utility: float, delta: float, seed: int) -> Point:
    rate, steps = setting.schedule(ground.records)
    return Point(
        setting=setting,
        epsilon=epsilon(noise_multiplier=setting.noise, sample_rate=rate, steps=steps, delta=delta),
        advantage_ceiling=advantage_ceiling(noise_multiplier=setting.noise, sample_rate=rate, steps=steps),
        utility=utility,
        advantage=strongest_advantage(ground, setting, seed=seed),
    )
