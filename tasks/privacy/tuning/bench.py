"""What a trial is, and what it is worth: many settings are trained at once, and judged on records apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.errors import GatehouseError
from tasks.privacy.scoring import auc
from tasks.privacy.stacks import Stacks, Walks, train_stacks
from tasks.privacy.tabular import Table

SHARES = (0.6, 0.2, 0.2)  # of the records: training, selection, report
FLOATS_AT_ONCE = 60_000_000  # of weights and inputs; more networks are trained in turns
NETWORKS_AT_ONCE = 64  # more of them fall out of the processor's caches: a third slower
UNCLIPPED = 1e6
Progress = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True)
class Setting:
    """One way to train. `step` is learning rate times clipping norm: the length of a step of one record."""

    batch_size: int
    epochs: int
    clip: float
    step: float
    noise: float  # multiple of the clipping norm; 0 and `UNCLIPPED` give plain SGD

    @property
    def learning_rate(self) -> float:
        return self.step / self.clip

    def schedule(self, records: int) -> tuple[float, int]:
        """Sample rate and steps (see `schedule`)."""
        return schedule(records, self.batch_size, self.epochs)

    def as_json(self) -> dict[str, Any]:
        return {k: round(v, 6) for k, v in asdict(self).items()} | {"learning_rate": round(self.learning_rate, 6)}


def schedule(records: int, batch_size: int, epochs: int) -> tuple[float, int]:
    """Sample rate and steps that see about `epochs` times as many records as there are."""
    per_epoch = max(1, round(records / batch_size))
    return 1 / per_epoch, epochs * per_epoch


@dataclass(frozen=True)
class Ground:
    """Records in three parts, drawn alike by class, and the network that learns from them."""

    x: Tensor  # float32 (n, width)
    y: Tensor  # int64 (n,)
    classes: int
    train: np.ndarray
    select: np.ndarray
    report: np.ndarray
    hidden: tuple[int, ...]

    @property
    def records(self) -> int:
        return len(self.train)


def prepare(table: Table, *, hidden: tuple[int, ...], seed: int) -> Ground:
    """Split a table by class; rows of each part in ascending order."""
    rng = np.random.default_rng(seed)
    part = np.empty(len(table), int)
    for c in range(len(table.classes)):
        rows = rng.permutation(np.flatnonzero(table.y == c))
        ends = np.round(np.cumsum(SHARES) * len(rows)).astype(int)
        part[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    train, select, report = (np.flatnonzero(part == i) for i in range(len(SHARES)))
    x, y = torch.from_numpy(table.x), torch.from_numpy(table.y)
    return Ground(x, y, len(table.classes), train, select, report, hidden)


def utilities(
    ground: Ground, settings: Sequence[Setting], *, repeats: int, rows: np.ndarray, seed: int,
    progress: Progress = lambda *_: None,
) -> np.ndarray:  # fmt: skip
    """AUC of every setting on `rows`, shape (settings, repeats), each repeat with a start and noise of its own.

    A setting that diverges answers all records alike, which is an AUC of .5.
    """
    out = np.zeros((len(settings), repeats))
    x, y, labels = ground.x[ground.train], ground.y[ground.train], ground.y[rows].numpy()
    order = sorted(range(len(settings)), key=lambda i: (settings[i].batch_size, settings[i].epochs))
    done = 0
    for _, same in groupby(order, key=lambda i: (settings[i].batch_size, settings[i].epochs)):
        for some in _in_turns(list(same), ground, settings, repeats):
            own = [settings[i] for i in some for _ in range(repeats)]
            stacks = fit(ground, own, x, y, seed=seed + 1009 * some[0])
            found = [auc_of(z, labels) for z in stacks(ground.x[rows]).numpy()]
            out[some] = np.array(found).reshape(-1, repeats)
            done += len(some)
            progress(done, len(settings))
    return out


def fit(
    ground: Ground, settings: Sequence[Setting], x: Tensor, y: Tensor, *, seed: int, included: np.ndarray | None = None
) -> Stacks:
    """One network a setting; all of one batch size and number of epochs."""
    rate, steps = settings[0].schedule(ground.records)
    walks = Walks(*(np.array([getattr(s, name) for s in settings]) for name in ("clip", "noise", "learning_rate")))
    return train_stacks(
        x, y, walks, classes=ground.classes, hidden=ground.hidden, sample_rate=rate, steps=steps, momentum=0.9,
        included=included, seed=seed, diverged="zero",
    )  # fmt: skip


def auc_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve of logits (n, classes); of more than two, the mean of each class against the rest."""
    if logits.shape[1] == 2:
        return auc(logits[:, 1] - logits[:, 0], labels == 1)
    return float(np.mean([auc(logits[:, c], labels == c) for c in np.unique(labels)]))


def plain(settings: Sequence[Setting]) -> list[Setting]:
    """The settings without privacy: nothing clipped, no noise, and the learning rate as it is."""
    return [replace(s, clip=UNCLIPPED, step=s.learning_rate * UNCLIPPED, noise=0.0) for s in settings]


def _in_turns(rows: list[int], ground: Ground, settings: Sequence[Setting], repeats: int) -> list[list[int]]:
    widths = (ground.x.shape[1], *ground.hidden, ground.classes)
    weights = sum(a * b for a, b in pairwise(widths))
    one = repeats * (3 * weights + settings[rows[0]].batch_size * sum(widths) * 2)
    if one > FLOATS_AT_ONCE:
        raise GatehouseError("The network is too large to be tuned in memory; give fewer or narrower hidden layers.")
    size = max(1, min(FLOATS_AT_ONCE // one, NETWORKS_AT_ONCE // repeats))
    return [rows[i : i + size] for i in range(0, len(rows), size)]
