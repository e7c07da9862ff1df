"""A whole grid of private trainings beside 25 of Opacus', one after another: the study's search, in one run.

`python benchmarks/private_grid.py [--data FOLDER]`, FOLDER as Synthea's sample unpacks; without it a table of the same
size is drawn. Results: reports/bench/private_grid.json. CPU seconds, since one of the two runs on one thread anyway.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule, PrivacyEngine
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tasks.files import write_json
from tasks.privacy.study import SYNTHEA
from tasks.privacy.synthea_like import as_table, draw, read_sources
from tasks.privacy.tabular import Table
from tasks.privacy.tuning.bench import Ground, Setting, prepare, schedule, utilities
from tasks.privacy.tuning.goals import Point, pareto
from tasks.privacy.tuning.risk import strongest_advantage

OUT = Path("reports/bench/private_grid.json")
RECIPE = SYNTHEA["sgd"]  # the study's network, batch size, length of training and grid
VALUES = RECIPE.values
TRIALS = 25
RECORDS, FEATURES = 1384, 62


def table(folder: Path | None, seed: int) -> tuple[Table, str]:
    """The larger cluster of the Synthea-like set, or a table of its size."""
    if folder is not None:
        drawn = draw(read_sources(folder), seed=seed)
        return as_table(drawn[drawn["cluster"] == 0]), "Synthea-like, cluster 0"
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (RECORDS, FEATURES)).astype(np.float32)
    y = (x[:, :8].sum(1) + rng.normal(0, 1, RECORDS) > 1).astype(np.int64)
    return Table(x, y, ("no", "yes"), tuple(f"f{i}" for i in range(FEATURES)), ()), "drawn at random"


def grid(ground: Ground, seed: int) -> dict[str, Any]:
    """All settings of the grid, and attacks with 16 references on those that nothing beats."""
    started = time.process_time()
    settings = [
        Setting(RECIPE.batch_size, RECIPE.epochs, float(c), float(c) * RECIPE.learning_rate, float(s))
        for c in VALUES
        for s in VALUES
    ]
    found = utilities(ground, settings, repeats=1, rows=ground.select, seed=seed)[:, 0]
    trained = time.process_time() - started
    nothing: Any = None  # a point's risk is measured for the front alone; at one schedule ε falls as noise rises
    points = [Point(s, 1 / s.noise, 1.0, float(u), nothing) for s, u in zip(settings, found, strict=True)]
    front = pareto(points)
    for point in front:
        strongest_advantage(ground, point.setting, seed=seed, attacks=("likelihood_ratio",))
    return {
        "cpu_seconds": round(time.process_time() - started, 2),
        "of_them_training": round(trained, 2),
        "settings": len(settings),
        "front": len(front),
        "best_auc": round(float(found.max()), 6),
    }


def network(ground: Ground) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((ground.x.shape[1], *RECIPE.hidden, ground.classes)):
        layers += [nn.ReLU(), nn.Linear(inputs, outputs)] if layers else [nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers)


def opacus(ground: Ground, seed: int) -> dict[str, Any]:
    """`TRIALS` trainings one after another, as Opacus' documentation has it: PrivacyEngine and its data loader."""
    rng, part = np.random.default_rng(seed), TensorDataset(ground.x[ground.train], ground.y[ground.train])
    started = time.process_time()
    for trial in range(TRIALS):
        torch.manual_seed(seed + trial)
        module = network(ground)
        optimiser = torch.optim.SGD(module.parameters(), lr=RECIPE.learning_rate, momentum=0.9)
        module, optimiser, loader = PrivacyEngine().make_private(
            module=module, optimizer=optimiser, data_loader=DataLoader(part, batch_size=RECIPE.batch_size),
            noise_multiplier=float(rng.choice(VALUES)), max_grad_norm=float(rng.choice(VALUES)),
        )  # fmt: skip
        for _ in range(RECIPE.epochs):
            for x, y in loader:
                optimiser.zero_grad()
                F.cross_entropy(module(x), y).backward()
                optimiser.step()
    return {"cpu_seconds": round(time.process_time() - started, 2), "trials": TRIALS}


def bare_opacus(ground: Ground, seed: int) -> dict[str, Any]:
    """The same with Opacus' hooks and optimiser alone: no engine, no loader, records taken by index."""
    rng = np.random.default_rng(seed)
    x, y = ground.x[ground.train], ground.y[ground.train]
    rate, steps = schedule(ground.records, RECIPE.batch_size, RECIPE.epochs)
    started = time.process_time()
    for trial in range(TRIALS):
        torch.manual_seed(seed + trial)
        module = GradSampleModule(network(ground), loss_reduction="sum")
        optimiser = DPOptimizer(
            torch.optim.SGD(module.parameters(), lr=RECIPE.learning_rate, momentum=0.9),
            noise_multiplier=float(rng.choice(VALUES)),
            max_grad_norm=float(rng.choice(VALUES)), expected_batch_size=rate * len(y), loss_reduction="mean",
        )  # fmt: skip
        for rows in UniformWithReplacementSampler(num_samples=len(y), sample_rate=rate, steps=steps):
            optimiser.zero_grad()
            F.cross_entropy(module(x[rows]), y[rows], reduction="sum").backward()
            optimiser.step()
    return {"cpu_seconds": round(time.process_time() - started, 2), "trials": TRIALS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of Synthea's sample")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(options.runs):
        own, what = table(options.data, seed)
        ground = prepare(own, hidden=RECIPE.hidden, seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Opacus on first layers and on secure generators
            peers = {"opacus": opacus(ground, seed), "bare_opacus": bare_opacus(ground, seed)}
        rows.append({"seed": seed, "ours": grid(ground, seed), **peers})
    ours, peer, bare = (float(np.median([r[k]["cpu_seconds"] for r in rows])) for k in ("ours", *peers))
    each = [float(np.median([r["ours"]["of_them_training"] for r in rows])) / len(VALUES) ** 2, peer / TRIALS]
    result = {
        "name": "private_grid",
        "unit": "CPU seconds",
        "ours": ours,
        "peers": {"opacus": peer, "bare_opacus": bare},
        "ratio": {"opacus": round(peer / ours, 3), "bare_opacus": round(bare / ours, 3)},
        "ratio_a_training": round(each[1] / each[0], 2),
        "runs": rows,
        "data": what,
        "records": ground.records,
        "network": [ground.x.shape[1], *RECIPE.hidden, ground.classes],
        "hardware": f"{os.cpu_count()} cores {platform.machine()}, no GPU, 1 thread",
        "command": "python benchmarks/private_grid.py" + (" --data FOLDER" if options.data else ""),
    }
    write_json(OUT, result)
    count = rows[0]["ours"]["settings"]
    print(f"{count} settings and their attacks: {ours} CPU s; {TRIALS} of Opacus': {peer} CPU s ({bare} bare)")


if __name__ == "__main__":
    main()
