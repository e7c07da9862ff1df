"""Auto-PGD and Square beside ART's and torchattacks': the same model, images, budget and thread, in one run.

`make bench` fetches torchattacks into .gatehouse/bench and runs `python benchmarks/beside_attacks.py`. Results:
reports/bench/apgd.json and square.json. All run to the end that they were asked for; all are judged by the same model.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.backdoor.drill import teacher_training
from tasks.data.build import read
from tasks.data.sources import open_source
from tasks.errors import GatehouseError
from tasks.evasion.attacks.apgd import apgd_ce
from tasks.evasion.attacks.square import square
from tasks.files import write_json
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import as_float, logits
from tasks.models.training import fit
from tasks.params import load_params
from tasks.stats import proportion

PEER = Path(".gatehouse/bench")
OUT = Path("reports/bench")
IMAGES, STEPS, QUERIES, BATCH = 300, 20, 200, 64
EPS = {"apgd": 2 / 255, "square": 4 / 255}  # where neither nobody nor everybody is fooled
Attack = Callable[[Tensor, Tensor], Tensor]


def ground(seed: int) -> tuple[Classifier, Tensor, Tensor]:
    """A CNN on drawn radiographs, and IMAGES of its task that it gets right and has not seen."""
    params = load_params()
    data = read(
        open_source(params.data, params.data.student_task, seed=params.run.seed), params.data, remedies=("none",)
    )
    names = sorted(set(data.labels))
    labels, images = np.array([names.index(label) for label in data.labels]), data.images["none"]
    order = np.random.default_rng(seed).permutation(len(labels))
    held, train = order[: len(order) // 4], order[len(order) // 4 :]
    spec = ModelSpec(architecture="simple_cnn", classes=tuple(names), image_size=images.shape[-1])
    model = build(spec, seed=seed)
    fit(
        model,
        (images[train], labels[train]),
        (images[held], labels[held]),
        teacher_training(6),
        policy="all",
        seed=seed,
    )
    right = held[logits(model, images[held]).argmax(1).numpy() == labels[held]][:IMAGES]
    return model, as_float(images[right]), torch.from_numpy(labels[right])


def arts(model: Classifier, x: Tensor) -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=model.head.out_features,
        clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip


def attacks(name: str, model: Classifier, x: Tensor, seed: int) -> dict[str, Attack]:
    """Ours and the peers', alike in steps, restarts and batches."""
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack

    sys.path.append(str(PEER))
    try:
        import torchattacks
    except ImportError:
        raise GatehouseError(f"torchattacks is not in {PEER}; run `make bench`, which fetches it.") from None
    eps, one_hot = EPS[name], np.eye(model.head.out_features, dtype=np.float32)
    if name == "apgd":
        art = AutoProjectedGradientDescent(
            arts(model, x), eps=eps, eps_step=2 * eps, max_iter=STEPS, nb_random_init=1, batch_size=BATCH,
            loss_type="cross_entropy", verbose=False,
        )  # fmt: skip
        peer = torchattacks.APGD(model, eps=eps, steps=STEPS, n_restarts=1, seed=seed, loss="ce")
        ours: dict[str, Attack] = {
            "ours": lambda x, y: apgd_ce(model, x, y, eps=eps, steps=STEPS, seed=seed),
            "ours_bfloat16": lambda x, y: apgd_ce(model, x, y, eps=eps, steps=STEPS, seed=seed, bfloat16=True),
        }
    else:
        art = SquareAttack(arts(model, x), eps=eps, max_iter=QUERIES, p_init=0.8, batch_size=BATCH, verbose=False)
        peer = torchattacks.Square(
            model, eps=eps, n_queries=QUERIES, n_restarts=1, p_init=0.8, seed=seed, loss="margin"
        )
        ours = {
            "ours": lambda x, y: square(model, x, y, eps=eps, queries=QUERIES, seed=seed).images,
            "ours_bfloat16": lambda x, y: (
                square(model, x, y, eps=eps, queries=QUERIES, seed=seed, bfloat16=True).images
            ),
        }
    return ours | {
        "art": lambda x, y: torch.from_numpy(art.generate(x.numpy(), one_hot[y.numpy()])),
        "torchattacks": lambda x, y: torch.cat(
            [peer(a, b) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)]
        ),
    }


def measured(name: str, runs: int) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(runs):
        model, x, y = ground(seed)
        for who, attack in attacks(name, model, x, seed).items():
            np.random.seed(seed)
            started = time.perf_counter()
            changed = attack(x, y)
            seconds = time.perf_counter() - started
            changed = changed.detach()
            fooled = logits(model, changed).argmax(1) != y
            far = float((changed - x).abs().max())
            if far > EPS[name] + 1e-5:
                raise GatehouseError(f"{who}: {name} left its budget, {far:.5f} instead of {EPS[name]:.5f}.")
            rows.setdefault(who, []).append(
                {"images_a_second": round(len(y) / seconds, 2), **proportion(int(fooled.sum()), len(y))}
            )
    speed = {who: median(r["images_a_second"] for r in found) for who, found in rows.items()}
    return {
        "name": name,
        "unit": "images_a_second",
        "ours": speed["ours"],
        "ours_bfloat16": speed["ours_bfloat16"],
        "peers": {"art": speed["art"], "torchattacks": speed["torchattacks"]},
        "ratio": {who: round(speed["ours"] / speed[who], 2) for who in ("art", "torchattacks")},
        "ratio_bfloat16": {who: round(speed["ours_bfloat16"] / speed[who], 2) for who in ("art", "torchattacks")},
        "runs": runs,
        "by_run": rows,
        "images": IMAGES,
        "budget": EPS[name],
        "steps_or_queries": STEPS if name == "apgd" else QUERIES,
        "hardware": f"{os.cpu_count()} cores {platform.machine()}, no GPU, 1 thread",
        "command": "make bench",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="models, each with a seed of its own (default 3)")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    try:
        for name in ("apgd", "square"):
            result = measured(name, runs)
            write_json(OUT / f"{name}.json", result)
            print(f"{name}: {result['ours']} against {result['peers']} images a second, {result['ratio']}")
    except GatehouseError as error:
        raise SystemExit(f"bench: {error}") from None


if __name__ == "__main__":
    main()
