"""Trigger inversion and STRIP beside TrojanZoo 2.0.3: the same model, images and threads, in one run.

`make bench` fetches the peer into .gatehouse/bench (without its dependencies, which this project has) and runs
`python benchmarks/beside_trojanzoo.py`. Results: reports/bench/trigger_inversion.json and strip.json. TrojanZoo's own
loops run as they are, with their defaults; only the objects that they read settings, images and the model from are
built here, since its command line takes data sets and models of its own only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import cm
from sklearn.metrics import roc_auc_score

from tasks.backdoor.attacks.badnets import poison
from tasks.backdoor.control import attack_success_rate
from tasks.backdoor.defences.mask_inversion import Mask, invert_masks
from tasks.backdoor.defences.neural_cleanse import overlap
from tasks.backdoor.defences.strip import auroc, entropies
from tasks.backdoor.drill import teacher_training
from tasks.backdoor.triggers import Trigger, pixels, square
from tasks.data.build import read
from tasks.data.sources import open_source
from tasks.errors import GatehouseError
from tasks.files import write_json
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import as_float, logits
from tasks.models.training import fit
from tasks.models.vision import torchvision_models
from tasks.params import load_params

PEER = Path(".gatehouse/bench")
OUT = Path("reports/bench")
IMAGES, BATCH, BLENDS = 600, 100, 64  # 100 and 64 are TrojanZoo's defaults
TARGET, FRACTION, POISON = 0, 0.09, 0.1
COMMAND = "make bench"


def load_peer() -> tuple[Any, Any, Any]:
    """TrojanZoo's NeuralCleanse, Strip and Watermark, with what newer libraries took away put back."""
    if not (PEER / "trojanvision").is_dir():
        raise GatehouseError(f"TrojanZoo is not in {PEER}; run `make bench`, which fetches it.")
    sys.path.append(str(PEER))
    torchvision_models()  # declares the operators that torchvision's import needs
    if not hasattr(cm, "get_cmap"):
        cm.get_cmap = lambda name=None: matplotlib.colormaps[name or "viridis"]  # type: ignore[attr-defined]
    from trojanvision.defenses.backdoor.input_filtering.strip import Strip
    from trojanvision.defenses.backdoor.model_inspection.neural_cleanse import NeuralCleanse
    from trojanvision.marks import Watermark

    return NeuralCleanse, Strip, Watermark


def ground(seed: int) -> tuple[Classifier, np.ndarray, np.ndarray, Trigger, dict[str, float]]:
    """A backdoored CNN on drawn radiographs, IMAGES clean images it has not seen, and its trigger."""
    params = load_params()
    records = open_source(params.data, params.data.teacher_task, seed=params.run.seed)
    data = read(records, params.data, remedies=("none",))
    names = sorted(set(data.labels))
    labels = np.array([names.index(label) for label in data.labels])
    order = np.random.default_rng(seed).permutation(len(labels))
    held, train = order[:IMAGES], order[IMAGES:]
    images = data.images["none"]
    size, channels = images.shape[-1], images.shape[1]
    trigger = square(side=pixels(FRACTION, size), channels=channels, image_size=size)
    poisoned = poison(images[train], labels[train], trigger=trigger, target_class=TARGET, poison_rate=POISON, seed=seed)
    model = build(
        ModelSpec(architecture="simple_cnn", classes=tuple(names), channels=channels, image_size=size), seed=seed
    )
    fit(model, poisoned, (images[held], labels[held]), teacher_training(5), policy="all", seed=seed)
    clean = logits(model, images[held]).argmax(1).numpy()
    success = attack_success_rate(
        clean, logits(model, trigger.apply_uint8(images[held])).argmax(1).numpy(), labels[held], target_class=TARGET
    )
    figures = {"accuracy": float((clean == labels[held]).mean()), "attack_success": success.value}
    return model, images[held], labels[held], trigger, figures


def _model_for_peer(model: Classifier) -> Any:
    """What TrojanZoo's loops ask of a model; weights without gradients, as there."""
    model.requires_grad_(False)

    class Wrapped:
        num_classes = model.head.out_features

        def __call__(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
            return model(x)

        def get_data(self, data: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            return data

        def loss(self, _input: torch.Tensor, label: torch.Tensor, _output: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(_output, label)

    return Wrapped()


def peer_inversion(
    peer: Any, mark: Any, model: Classifier, images: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[list[Mask], float]:
    """TrojanZoo's default Neural Cleanse on every class; its masks, and seconds a class."""
    torch.manual_seed(seed)
    x, y = as_float(images), torch.from_numpy(labels)
    _, channels, height, width = x.shape
    watermark = mark(data_shape=[channels, height, width], mark_height=height, mark_width=width)
    defence = object.__new__(peer)
    defence.__dict__ |= {
        "attack": SimpleNamespace(mark=watermark, add_mark=watermark.add_mark, target_class=0),
        "model": _model_for_peer(model),
        "defense_remask_epoch": 10,
        "defense_remask_lr": 0.1,
        "cost": 1e-3,
        "init_cost": 1e-3,
        "cost_multiplier_up": 1.5,
        "cost_multiplier_down": 1.5**1.5,
        "nc_asr_threshold": 0.99,
        "nc_early_stop_threshold": 0.99,
        "nc_patience": 10.0,
        "early_stop_patience": 20.0,
    }
    found, started = [], time.perf_counter()
    for c in range(model.head.out_features):
        watermark.mark = torch.zeros(channels + 1, height, width)
        batches = [(x[rows], y[rows]) for rows in torch.randperm(len(y)).split(BATCH)]
        with contextlib.redirect_stdout(io.StringIO()):
            made, _ = defence.optimize_mark(c, loader=batches)
        found.append(Mask(c, "patch", made[-1], made[:-1], float(made[-1].sum()), 0.0, 0.0))
    return found, (time.perf_counter() - started) / len(found)


def judged(found: list[Mask], model: Classifier, images: np.ndarray, labels: np.ndarray, trigger: Trigger) -> Any:
    """Whether the planted trigger was found: its class has the smallest working mask, most of it on the square."""
    rows = []
    for mask in found:
        others = labels != mask.target_class
        after = logits(model, mask.apply(as_float(images[others]))).argmax(1).numpy()
        rows.append(
            {
                "class": mask.target_class,
                "size": round(mask.size, 3),
                "success": round(float((after == mask.target_class).mean()), 6),
                **{k: round(v, 6) for k, v in overlap(mask.mask, trigger).items()},
            }
        )
    working = [r for r in rows if r["success"] >= 0.9]
    best = min(working, key=lambda r: r["size"], default=None)
    return {
        "classes": rows,
        "accused": None if best is None else best["class"],
        "found": best is not None and best["class"] == TARGET and best["inside"] >= 0.5,
    }


def inversion(peer: Any, mark: Any, runs: int) -> dict[str, Any]:
    ours, theirs, grounds = [], [], []
    for seed in range(runs):
        model, images, labels, trigger, figures = ground(seed)
        started = time.perf_counter()
        masks = invert_masks(model, (images, labels), seed=seed)
        seconds = (time.perf_counter() - started) / len(masks)
        ours.append({"seconds_a_class": seconds} | judged(masks, model, images, labels, trigger))
        masks, seconds = peer_inversion(peer, mark, model, images, labels, seed)
        theirs.append({"seconds_a_class": seconds} | judged(masks, model, images, labels, trigger))
        grounds.append(figures)
    return _result("trigger inversion", "seconds_a_class", ours, theirs, grounds)


def strip(peer: Any, runs: int) -> dict[str, Any]:
    ours, theirs, grounds = [], [], []
    for seed in range(runs):
        model, images, labels, trigger, figures = ground(seed)
        judge, overlays = images[: IMAGES // 3], images[IMAGES // 3 :]
        judge = judge[labels[: IMAGES // 3] != TARGET]
        triggered = trigger.apply_uint8(judge)
        started = time.perf_counter()
        two = [entropies(model, part, overlays, alpha=0.5, blends=BLENDS, seed=seed) for part in (judge, triggered)]
        seconds = (time.perf_counter() - started) / (2 * len(judge))
        ours.append({"seconds_an_image": seconds, "auroc": auroc(two[0], two[1], seed=seed)[0]})

        defence = object.__new__(peer)
        x = as_float(overlays)
        rows = torch.randint(len(x), (BLENDS, min(BATCH, len(judge))), generator=torch.Generator().manual_seed(seed))
        loader = [(x[r], torch.zeros(len(r), dtype=torch.int64)) for r in rows]
        defence.__dict__ |= {
            "model": _model_for_peer(model), "strip_alpha": 0.5, "strip_sample_num": BLENDS, "loader": loader
        }  # fmt: skip
        started = time.perf_counter()
        with torch.no_grad():
            scores = [
                torch.cat([defence.get_score(p) for p in as_float(part).split(len(rows[0]))]).numpy()
                for part in (judge, triggered)
            ]
        seconds = (time.perf_counter() - started) / (2 * len(judge))
        # TrojanZoo reports the area under the ROC of its thresholded answers; its scores themselves give the second.
        low = np.sort(scores[0])[int(0.05 * len(scores[0]))]
        truth = np.repeat([0, 1], len(judge))
        flagged = np.concatenate(scores) < low
        theirs.append(
            {
                "seconds_an_image": seconds,
                "auroc_as_reported": float(roc_auc_score(truth, flagged)),
                "auroc": float(roc_auc_score(truth, -np.concatenate(scores))),
            }
        )
        grounds.append(figures)
    return _result("STRIP", "seconds_an_image", ours, theirs, grounds)


def _result(name: str, unit: str, ours: list[Any], theirs: list[Any], grounds: list[Any]) -> dict[str, Any]:
    own, peer = (median(r[unit] for r in rows) for rows in (ours, theirs))
    return {
        "name": name,
        "unit": unit,
        "ours": round(own, 5),
        "peer": round(peer, 5),
        "peer_name": "TrojanZoo 2.0.3",
        "ratio": round(peer / own, 2),
        "runs": len(ours),
        "by_run": [
            {"model": g, "ours": o, "peer": p} for g, o, p in zip(grounds, ours, theirs, strict=True)
        ],
        "images": IMAGES,
        "hardware": f"{os.cpu_count()} cores {platform.machine()}, no GPU, 1 thread",
        "command": COMMAND,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="models, each with a seed of its own (default 3)")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    try:
        cleanse, filtering, mark = load_peer()
        for file, result in (("trigger_inversion", inversion(cleanse, mark, runs)), ("strip", strip(filtering, runs))):
            write_json(OUT / f"{file}.json", result)
            print(f"{result['name']}: {result['ours']} against {result['peer']} {result['unit']}, {result['ratio']}×")
    except GatehouseError as error:
        raise SystemExit(f"bench: {error}") from None


if __name__ == "__main__":
    main()
