"""The study's optimiser (6.2.4, Figures 43, 44 and 46): clipping and noise by Bayesian optimisation, trial by trial.

A Gaussian process proposes each trial, as in the study. Of its two attacks the forest alone judges a trial: the network
takes ten times as long and rarely finds more.
"""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from tasks.privacy.art_black_box import Kind
from tasks.privacy.study import Owners, Recipe, leakage_of, train_networks, utility_of
from tasks.privacy.tuning.bench import UNCLIPPED

LEAST_CLIP = 0.1  # a norm of 0 drops everything (6.3.3)
FOREST: tuple[Kind, ...] = ("rf",)


def best_so_far(
    owners: Owners, recipe: Recipe, *, most: float, trials: int, trade_off: float, seed: int
) -> list[dict[str, Any]]:
    """Every new best trial: its number from 1, clipping, noise, change of utility, leakage, and the objective o.

    Args:
        most: largest clipping norm and noise multiplier that are tried.
        trade_off: t in o = t · (u − u₀) + (1 − t) · (p₀ − p).
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space: dict[str, BaseDistribution] = {
        "clip": FloatDistribution(LEAST_CLIP, most),
        "noise": FloatDistribution(0.0, most),
    }

    def judged(clip: float, noise: float, own: int) -> tuple[float, float]:
        network = train_networks(owners, recipe, [(clip, noise)], seed=own)
        return float(utility_of(network, owners.test, recipe)[0]), leakage_of(network, 0, owners, seed, kinds=FOREST)

    start = judged(UNCLIPPED, 0.0, seed)
    found: list[dict[str, Any]] = []
    for number in range(1, trials + 1):
        trial = study.ask(space)
        utility, leakage = judged(trial.params["clip"], trial.params["noise"], seed + number)
        value = trade_off * (utility - start[0]) + (1 - trade_off) * (start[1] - leakage)
        study.tell(trial, value)
        if not found or value > found[-1]["objective"]:
            found.append(
                {
                    "trial": number,
                    **{k: round(v, 4) for k, v in trial.params.items()},
                    "utility_change": round(utility - start[0], 6),
                    "leakage": leakage,
                    "objective": round(value, 6),
                }
            )
    return found
