"""The study's Part II measured again on one table of two owners: base models, the grid, and what its t chooses.

Members are the owner's training records; the others are a second owner's (another cluster), as in section 6.3.1. So
what the attack finds is partly a difference between the two owners: the baseline that never asks the model says how
much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.privacy.accounting import delta_for, epsilon
from tasks.privacy.art_black_box import KINDS, Kind, leakage_accuracy
from tasks.privacy.scoring import auc
from tasks.privacy.stacks import Stacks, Walks, train_stacks
from tasks.privacy.tuning.bench import NETWORKS_AT_ONCE, UNCLIPPED, auc_of, schedule

Optimiser = Literal["sgd", "adam"]
SPAN = (0.5, 10.0)  # of clipping and noise on the study's grid (6.3.3)
TRADE_OFFS = (0.25, 0.5, 0.75)
CONFIRMED = 5  # trainings of a choice, from fresh seeds
LOSS = 0.02  # the largest loss of AUC in the constrained mode
TEST_SHARE = 0.2
WEIGHTS_AT_ONCE = 4_000_000  # of networks trained together


@dataclass(frozen=True)
class Recipe:
    """How the base network is trained, and the private ones with it: only clipping and noise differ (6.2.2)."""

    optimiser: Optimiser
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    grid: int = 20  # values of clipping, and of noise
    pooled: bool = False  # utility is the AUC over both columns of the answers, see `pooled_auc`

    @property
    def values(self) -> np.ndarray:
        """Clipping norms, and noise multipliers, of the grid."""
        return np.linspace(*SPAN, self.grid)


SYNTHEA: dict[Optimiser, Recipe] = {
    "sgd": Recipe("sgd", (50, 10), 10, 32, 0.1),
    "adam": Recipe("adam", (50, 10), 5, 32, 0.01),
}
HIV = Recipe("sgd", (200, 100), 10, 128, 0.3, grid=10, pooled=True)  # without the study's dropout of .1


@dataclass(frozen=True)
class Owners:
    """Records (n, width) with labels (n,): what one owner trains and tests on, and those of another."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    unseen: tuple[Tensor, Tensor]


def split(x: np.ndarray, y: np.ndarray, cluster: np.ndarray, *, seed: int) -> Owners:
    """Cluster 0 is the owner's, a fifth of it to test on, cluster 1 the other's."""
    own = np.random.default_rng(seed).permutation(np.flatnonzero(cluster == 0))
    cut = round(len(own) * TEST_SHARE)

    def part(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(x[rows]), torch.from_numpy(y[rows])

    return Owners(part(own[cut:]), part(own[:cut]), part(np.flatnonzero(cluster == 1)))


def measure(owners: Owners, recipe: Recipe, *, seed: int) -> dict[str, Any]:
    """Everything of one seed, JSON-ready: the base network, the grid's surface, and each trade-off's choice."""
    base = train_networks(owners, recipe, [(UNCLIPPED, 0.0)], seed=seed)
    start = {"auc": utility_of(base, owners.test, recipe)[0], "leakage": leakage_of(base, 0, owners, seed)}
    values = recipe.values
    weights = sum(a * b for a, b in pairwise((owners.train[0].shape[1], *recipe.hidden, 2)))
    at_once = max(1, min(NETWORKS_AT_ONCE, WEIGHTS_AT_ONCE // weights))
    grid = [(float(c), float(s)) for c in values for s in values]
    surface = np.concatenate(
        [
            utility_of(train_networks(owners, recipe, grid[i : i + at_once], seed=seed + 1 + i), owners.test, recipe)
            for i in range(0, len(grid), at_once)
        ]
    ).reshape(len(values), len(values))
    # At one noise the clipping that keeps most; what each leaks is measured once more, on another training.
    best = [(float(values[surface[:, j].argmax()]), float(noise)) for j, noise in enumerate(values)]
    tried = train_networks(owners, recipe, [(UNCLIPPED, 0.0), *best], seed=seed + 10_007)
    utility = utility_of(tried, owners.test, recipe)
    risk = np.array([leakage_of(tried, i, owners, seed) for i in range(len(best) + 1)])
    rate, steps = schedule(len(owners.train[1]), recipe.batch_size, recipe.epochs)
    delta = delta_for(len(owners.train[1]))
    rows = []
    for t in TRADE_OFFS:
        value = t * (utility - start["auc"]) + (1 - t) * (start["leakage"] - risk)
        rows.append({"t": t, **_chosen(owners, recipe, int(value.argmax()), best, start["auc"], seed)})
    allowed = np.flatnonzero(start["auc"] - utility <= LOSS)
    least = int(allowed[risk[allowed].argmin()]) if len(allowed) else int(utility.argmax())
    rows.append({"t": f"loss at most {LOSS}", **_chosen(owners, recipe, least, best, start["auc"], seed)})
    for row in rows:
        spent = epsilon(noise_multiplier=row["noise"], sample_rate=rate, steps=steps, delta=delta)
        row["epsilon"] = round(spent, 4) if row["noise"] else None
    return {
        "base": {
            "training_auc": utility_of(base, owners.train, recipe)[0],
            "testing_auc": start["auc"],
            "unseen_auc": utility_of(base, owners.unseen, recipe)[0],
            **_beside(base, owners, recipe),
            "leakage": start["leakage"],
            "leakage_without_the_model": _features_only(owners, seed),
        },
        "choices": rows,
        "surface": {
            "clip": values.tolist(), "noise": values.tolist(),
            "utility": [[round(v - start["auc"], 6) for v in row] for row in surface.tolist()],
            "leakage_at_best_clip": [round(v, 6) for v in risk[1:].tolist()],
        },
        "records": {k: len(getattr(owners, k)[1]) for k in ("train", "test", "unseen")},
        "delta": delta,
    }  # fmt: skip


def _chosen(
    owners: Owners, recipe: Recipe, index: int, best: Sequence[tuple[float, float]], base: float, seed: int
) -> dict[str, Any]:
    """The choice trained anew: index 0 is the training without privacy, the others are `best`'s."""
    clip, noise = best[index - 1] if index else (UNCLIPPED, 0.0)
    again = train_networks(owners, recipe, [(clip, noise)] * CONFIRMED, seed=seed + 20_011)
    utility = utility_of(again, owners.test, recipe)
    risk = [leakage_of(again, i, owners, seed + i) for i in range(CONFIRMED)]
    ranked = {"auc_of_the_rare_class": round(float(_auc(again, owners.test).mean()), 6)} if recipe.pooled else {}
    return {
        "clip": clip if index else None,
        "noise": noise,
        "utility_loss": round(float(base - utility.mean()), 6),
        "privacy_risk": round(float(np.mean(risk)), 6),
        **ranked,
    }


def train_networks(owners: Owners, recipe: Recipe, settings: Sequence[tuple[float, float]], *, seed: int) -> Stacks:
    """One network for each clipping norm and noise multiplier, on the owner's training records."""
    clip, noise = (np.array(v) for v in zip(*settings, strict=True))
    # SGD's step grows with the clipping norm where gradients are long: the rate is per clipped gradient, as published.
    walks = Walks(clip, noise, np.full(len(settings), recipe.learning_rate))
    rate, steps = schedule(len(owners.train[1]), recipe.batch_size, recipe.epochs)
    return train_stacks(
        *owners.train, walks, classes=2, hidden=recipe.hidden, sample_rate=rate, steps=steps,
        optimiser=recipe.optimiser, diverged="zero", seed=seed,
    )  # fmt: skip


def utility_of(stacks: Stacks, part: tuple[Tensor, Tensor], recipe: Recipe) -> np.ndarray:
    """What the recipe counts as utility, of every network, shape (networks,)."""
    if not recipe.pooled:
        return _auc(stacks, part)
    return np.array([round(pooled_auc(torch.softmax(z, 1).numpy(), part[1].numpy()), 6) for z in stacks(part[0])])


def _beside(base: Stacks, owners: Owners, recipe: Recipe) -> dict[str, float]:
    """Where utility is pooled: what the same figure is for answers that are the same for every record, and the AUC."""
    if not recipe.pooled:
        return {}
    rare = float(owners.test[1].float().mean())
    constant = np.tile(np.array([1 - rare, rare]), (len(owners.test[1]), 1))
    return {
        "testing_auc_of_one_answer_for_all": round(pooled_auc(constant, owners.test[1].numpy()), 6),
        **{
            f"{name}_auc_of_the_rare_class": _auc(base, getattr(owners, part))[0]
            for name, part in (("training", "train"), ("testing", "test"), ("unseen", "unseen"))
        },
    }


def pooled_auc(probability: np.ndarray, labels: np.ndarray) -> float:
    """AUC over all entries of the answers (n, classes) against one-hot labels (n,), as Keras computes it by default.

    Where one class is rare, answering the other for every record is worth nearly 1: the share of the other class.
    """
    return auc(probability.ravel(), np.eye(probability.shape[1], dtype=bool)[labels].ravel())


def _auc(stacks: Stacks, part: tuple[Tensor, Tensor]) -> np.ndarray:
    return np.array([round(auc_of(z, part[1].numpy()), 6) for z in stacks(part[0]).numpy()])


def leakage_of(stacks: Stacks, index: int, owners: Owners, seed: int, *, kinds: Sequence[Kind] = KINDS) -> float:
    """The study's p of one network: members against as many of the other owner's records."""
    x, y, members = _attacked(owners, seed)
    probability = torch.softmax(stacks(x)[index], 1).numpy()
    return round(leakage_accuracy(probability, y.numpy(), members, kinds=kinds, seed=seed), 6)


def _features_only(owners: Owners, seed: int) -> float:
    """The same attack by the forest on the records themselves: what the two owners' difference alone gives away."""
    x, y, members = _attacked(owners, seed)
    return round(leakage_accuracy(x.numpy(), y.numpy(), members, kinds=("rf",), seed=seed), 6)


def _attacked(owners: Owners, seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
    each = min(len(owners.train[1]), len(owners.unseen[1]))
    rng = np.random.default_rng(seed)
    own, other = (torch.from_numpy(rng.permutation(len(p[1]))[:each]) for p in (owners.train, owners.unseen))
    x = torch.cat([owners.train[0][own], owners.unseen[0][other]])
    y = torch.cat([owners.train[1][own], owners.unseen[1][other]])
    return x, y, np.arange(2 * each) < each
