"""What a setting leaks, measured: attacks on networks whose members are known, and the floor of ε that they prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit

from tasks.privacy.audit import epsilon_floor, guesses
from tasks.privacy.gate_attacks import ATTACKS
from tasks.privacy.heads import random_halves
from tasks.privacy.membership import likelihood_ratio_scores, logit_confidence, unseen_confidence
from tasks.privacy.ratios import online_ratio_scores, rmia_scores
from tasks.privacy.scoring import AttackFigures, Figure, measure, membership_advantage, worst
from tasks.privacy.tuning.bench import NETWORKS_AT_ONCE, Ground, Setting, fit

REFERENCES, ATTACKED = 16, 4  # networks that help an attack, and networks that the attacks are tried on
CANARIES = 20  # records that are added once more with a wrong label, to be found again
AUDITED, GUESSED = 100, 0.1  # networks of an audit, and the share of coins guessed on either side


@dataclass(frozen=True)
class Floor:
    """A measured lower bound of ε at `delta`, with 95 % confidence."""

    epsilon: float
    right: int
    guessed: int
    canaries: int
    networks: int
    delta: float


def measure_risk(ground: Ground, setting: Setting, *, seed: int) -> tuple[AttackFigures, ...]:
    """All figures of every attack (`attack_scores`), the strongest first."""
    scores, truth = attack_scores(ground, setting, seed=seed)
    figures = [measure(name, values, truth, seed=seed) for name, values in scores.items()]
    first = worst([f.membership_advantage for f in figures])
    return (figures[first], *(f for i, f in enumerate(figures) if i != first))


def strongest_advantage(ground: Ground, setting: Setting, *, seed: int, attacks: Sequence[str] = ATTACKS) -> Figure:
    """Membership advantage of the strongest of these attacks."""
    scores, truth = attack_scores(ground, setting, seed=seed)
    figures = [membership_advantage(scores[name], truth, seed=seed) for name in attacks]
    return figures[worst(figures)]


def attack_scores(ground: Ground, setting: Setting, *, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Attack networks that each learnt from a random half of all records, with references that did so too.

    Scores of `ATTACKED` networks are pooled: what is measured is the setting's risk, not one network's luck. Of the
    records that a network did not learn from, half are known to the attacker as such, and the rest are attacked.

    Returns:
        Scores of the attacked records by attack, each (records,), and bool (records,), which of them were members.
    """
    rows = np.sort(np.concatenate([ground.train, ground.select, ground.report]))
    x, y = ground.x[rows], ground.y[rows]
    coins = np.random.default_rng(seed).random((ATTACKED, len(rows))) < 0.5
    references = random_halves(REFERENCES, len(rows), seed=seed)
    included = np.vstack([coins, references])
    stacks = fit(ground, [setting] * len(included), x, y, seed=seed, included=included)
    confidence = logit_confidence(stacks(x).numpy(), y.numpy())
    probability = expit(confidence)
    theirs, marginal = confidence[ATTACKED:], probability[ATTACKED:].mean(0)
    mean, deviation = unseen_confidence(theirs, references)
    scores: dict[str, list[np.ndarray]] = {}
    members = []
    for own in range(ATTACKED):
        known = ~coins[own] & (np.arange(len(rows)) % 2 == 0)
        members.append(coins[own][~known])
        found = {
            "loss_threshold": confidence[own],
            "likelihood_ratio": likelihood_ratio_scores(confidence[own], mean, deviation),
            "online_likelihood_ratio": online_ratio_scores(confidence[own], theirs, references),
            "rmia": rmia_scores(probability[own], marginal, probability[own][known], marginal[known]),
        }
        for name in ATTACKS:
            scores.setdefault(name, []).append(found[name][~known])
    return {name: np.concatenate(values) for name, values in scores.items()}, np.concatenate(members)


def measure_floor(ground: Ground, setting: Setting, *, delta: float, seed: int, networks: int = AUDITED) -> Floor:
    """Audit a setting: canaries with a wrong label are in or out of each network by the toss of a coin.

    Every network tosses coins of its own for the same few canaries, which so hardly stand in each other's way, and all
    guesses count together (see `audit`).
    """
    rng = np.random.default_rng(seed)
    copied = rng.choice(ground.train, CANARIES, replace=True)
    wrong = (ground.y[copied] + torch.from_numpy(rng.integers(1, ground.classes, CANARIES))) % ground.classes
    x = torch.cat([ground.x[ground.train], ground.x[copied]])
    y = torch.cat([ground.y[ground.train], wrong])
    coins = rng.random((networks, CANARIES)) < 0.5
    included = np.hstack([np.ones((networks, ground.records), bool), coins])
    outputs = [
        fit(ground, [setting] * len(own), x, y, seed=seed + 1009 * i, included=own)(x[ground.records :]).numpy()
        for i, own in enumerate(np.array_split(included, -(-networks // NETWORKS_AT_ONCE)))
    ]
    confidence = logit_confidence(np.concatenate(outputs), wrong.numpy())
    # Beside how hard this canary is, whoever learnt it: the mean of the other networks.
    others = (confidence.sum(0) - confidence) / (networks - 1)
    apart = (confidence - others) / np.maximum(confidence.std(0), 1e-12)
    right, guessed = guesses(apart.ravel(), coins.ravel(), share=GUESSED)
    floor = epsilon_floor(right, guessed, coins.size, delta=delta)
    return Floor(round(floor, 6), right, guessed, CANARIES, networks, delta)
