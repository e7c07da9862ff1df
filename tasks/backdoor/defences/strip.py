"""STRIP (Gao 2019): an input whose answer stays the same however it is blended with others carries a trigger.

Each input is blended with clean images, (1 − alpha) · input + alpha · clean image, and the entropy of the model's
answer is averaged over the blends. It is taken over the *classes* of each answer. A triggered input has a low one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.backdoor.net import BATCH, fast_logits
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy
from tasks.models.metrics import auc
from tasks.stats import Interval, bootstrap, clopper_pearson

ALPHAS = (0.001, 0.05, 0.2, 0.35, 0.5)
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Filter:
    """A calibrated filter: an input whose entropy (nats) lies below `threshold` is refused."""

    alpha: float
    threshold: float
    blends: int


def class_entropy(logits: Tensor) -> Tensor:
    """Shannon entropy in nats over the last axis, the classes; shape (...,) for logits (..., classes)."""
    log_p = logits.double().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def entropies(
    model: Classifier, images: np.ndarray, overlays: np.ndarray, *, alpha: float, blends: int, seed: int
) -> np.ndarray:
    """Mean entropy over the blends of each image, in nats, shape (n,).

    Args:
        images: uint8 (n, channels, side, side), the inputs to judge.
        overlays: uint8 clean images to blend with; each input gets `blends` of them, drawn with replacement.
        alpha: weight of the overlay, in (0, 1).
    """
    net = frozen_copy(model)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(overlays), (len(images), blends))
    x, others = as_float(images), as_float(overlays)
    out = np.empty(len(images))
    each = max(1, BATCH // blends)
    for i in range(0, len(images), each):
        piece = x[i : i + each]
        mixed = (1 - alpha) * piece[:, None] + alpha * others[torch.from_numpy(drawn[i : i + each])]
        answers = fast_logits(net, mixed.flatten(0, 1))
        out[i : i + each] = class_entropy(answers).view(len(piece), blends).mean(1).numpy()
    return out


def auroc(clean: np.ndarray, triggered: np.ndarray, *, seed: int) -> tuple[float, Interval]:
    """Area under the ROC curve of "low entropy means triggered", with a bootstrap interval."""
    score = -np.concatenate([clean, triggered])
    truth = np.concatenate([np.zeros(len(clean), bool), np.ones(len(triggered), bool)])

    def statistic(t: np.ndarray, s: np.ndarray) -> float:
        return auc(t, s) if 0 < t.sum() < len(t) else float("nan")

    return statistic(truth, score), bootstrap(statistic, truth, score, seed=seed, resamples=200)


def calibrate_alpha(
    drills: Sequence[tuple[Classifier, np.ndarray, np.ndarray]],
    overlays: np.ndarray,
    *,
    alphas: Sequence[float] = ALPHAS,
    blends: int,
    seed: int,
) -> tuple[float, dict[float, float]]:
    """The blend weight at which models with a known trigger are told best, and the mean AUROC at each weight.

    `drills` holds (model, clean images, the same images with its trigger). The smaller weight wins a tie.
    """
    means = {}
    for alpha in alphas:
        areas = []
        for model, clean, triggered in drills:
            low = entropies(model, triggered, overlays, alpha=alpha, blends=blends, seed=seed)
            high = entropies(model, clean, overlays, alpha=alpha, blends=blends, seed=seed)
            areas.append(auroc(high, low, seed=seed)[0])
        means[alpha] = float(np.mean(areas))
    return max(means, key=lambda a: (means[a], -a)), means


def set_threshold(clean: np.ndarray, *, false_refusals: float) -> float:
    """The entropy below which at most this share of clean validation inputs falls."""
    return float(np.quantile(clean, false_refusals, method="lower"))


def refused(entropy: np.ndarray, threshold: float) -> dict[str, Any]:
    """Share of inputs refused, with its interval."""
    hits = int((entropy < threshold).sum())
    low, high = clopper_pearson(hits, len(entropy))
    return {"value": hits / max(len(entropy), 1), "low": low, "high": high, "n": len(entropy)}
