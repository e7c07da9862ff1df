"""Four ways to search settings behind one interface; trials are kept in Optuna's storage, where a search goes on.

Grid, Bayesian and halving look at everything they tried. `random` draws settings from the grid and stops at a random
number of them, which nobody is told: its cost in ε is small and proven (`accounting.selected_epsilon`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from tasks.privacy.tuning.bench import Setting

Search = Literal["grid", "bayes", "halving", "random"]
# What a setting of a schedule needs: batch size, epochs -> noise multiplier.
Noise = Callable[[int, int], float]
# Utilities of settings, shape (settings, repeats), from a seed.
Judge = Callable[[Sequence[Setting], int, int], np.ndarray]
AT_ONCE = 32  # settings asked for and trained together
KEEP = 3  # halving keeps one in so many, and repeats those so many times as often
CLIPS, STEPS = (0.1, 0.3, 1.0, 3.0), (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Space:
    """Schedules (batch size, epochs) to choose among; clipping norms and step lengths lie between the grid's ends."""

    schedules: tuple[tuple[int, int], ...]
    clips: tuple[float, ...] = CLIPS
    steps: tuple[float, ...] = STEPS

    @property
    def grid(self) -> Iterator[dict[str, float]]:
        for clip, step, schedule in product(self.clips, self.steps, range(len(self.schedules))):
            yield {"clip": clip, "step": step, "schedule": schedule}

    @property
    def discrete(self) -> dict[str, BaseDistribution]:
        return {
            "clip": CategoricalDistribution(self.clips),
            "step": CategoricalDistribution(self.steps),
            "schedule": CategoricalDistribution(range(len(self.schedules))),
        }

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return self.discrete | {
            "clip": FloatDistribution(min(self.clips), max(self.clips), log=True),
            "step": FloatDistribution(min(self.steps), max(self.steps), log=True),
        }


@dataclass(frozen=True)
class Tried:
    """A setting and its utilities on the records for selection."""

    setting: Setting
    utilities: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.utilities))


def run_search(
    kind: Search, space: Space, noise: Noise, judge: Judge, *, trials: int, seed: int, name: str,
    storage: str | None = None,
) -> list[Tried]:  # fmt: skip
    """Try settings and return all of them, best first by mean utility.

    Args:
        noise: of a schedule; whatever the search asks for, the noise is what the goal demands.
        judge: called with settings, repeats and a seed.
        trials: settings to try in all, on average where the search is `random`; a smaller grid is tried whole.
        name, storage: Optuna's study, and the URL where trials are kept: what is there is not tried again.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name, storage=storage, sampler=_sampler(kind, seed), direction="maximize", load_if_exists=True
    )
    if kind == "grid":
        points = list(space.grid)
        for i in np.random.default_rng(seed).permutation(len(points))[:trials]:
            study.enqueue_trial(points[i], skip_if_exists=True)
        trials = min(trials, len(points))
    if kind == "random":
        trials = study.user_attrs.get("stop") or int(np.random.default_rng(secrets.randbits(128)).geometric(1 / trials))
        study.set_user_attr("stop", trials)
    choices = space.discrete if kind == "random" else space.distributions
    while (left := trials - sum(t.state.is_finished() for t in study.trials)) > 0:
        asked = [study.ask(choices) for _ in range(min(left, AT_ONCE))]
        settings = [_setting(trial.params, space, noise) for trial in asked]
        # A trial's seed is its number: a search that was stopped goes on as if it had not been.
        found = judge(settings, 1, seed + asked[0].number)
        for trial, values in zip(asked, found, strict=True):
            trial.set_user_attr("utilities", [float(v) for v in values])
            study.tell(trial, float(values.mean()))
    done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    tried = [Tried(_setting(t.params, space, noise), tuple(t.user_attrs["utilities"])) for t in done]
    tried.sort(key=lambda t: -t.mean)
    return _halve(tried, judge, seed) if kind == "halving" else tried


def _halve(tried: list[Tried], judge: Judge, seed: int) -> list[Tried]:
    """The best third again, three times as often, and so on until one is left: fidelity is the number of repeats."""
    repeats, alive = 1, tried
    rest: list[Tried] = []
    while len(alive) > 1:
        rest = alive[max(1, len(alive) // KEEP) :] + rest
        alive, repeats = alive[: max(1, len(alive) // KEEP)], repeats * KEEP
        found = judge([t.setting for t in alive], repeats, seed + 7 * repeats)
        alive = [Tried(t.setting, tuple(map(float, values))) for t, values in zip(alive, found, strict=True)]
        alive.sort(key=lambda t: -t.mean)
    return alive + rest


def _sampler(kind: Search, seed: int) -> optuna.samplers.BaseSampler:
    if kind == "bayes":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _setting(params: dict[str, float], space: Space, noise: Noise) -> Setting:
    batch_size, epochs = space.schedules[int(params["schedule"])]
    return Setting(batch_size, epochs, params["clip"], params["step"], noise(batch_size, epochs))
