"""Randomised smoothing (Cohen 2019): a radius within which no change of the image changes the smoothed answer.

The smoothed model answers with the class that the model answers most often under Gaussian noise. Its certificate is a
proof up to the confidence of the count, in L2, and a lower bound: real attacks may need far larger changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from tasks.models.architectures import Classifier
from tasks.models.inference import logits
from tasks.stats import proportion

CONFIDENCE = 0.999  # of each image's certificate
FIRST = 32  # samples that choose the class, apart from those that count


@dataclass(frozen=True)
class Certified:
    """The smoothed answer of each image, −1 where it abstains, and the L2 radius that is proven for it (0 there)."""

    answers: np.ndarray  # int64 (n,)
    radius: np.ndarray  # float (n,)


def certify(model: Classifier, x: Tensor, *, sigma: float, samples: int, seed: int) -> Certified:
    """Certify images (n, channels, side, side) in [0, 1]; noise of standard deviation `sigma` is clipped to the range.

    Clipping is part of the smoothed model and costs the proof nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    answers, radii = [], []
    for image in x:
        first = _counts(model, image, sigma, FIRST, generator)
        top = int(first.argmax())
        hits = int(_counts(model, image, sigma, samples, generator)[top])
        low = float(stats.beta.ppf(1 - CONFIDENCE, hits, samples - hits + 1)) if hits else 0.0
        sure = low > 0.5
        answers.append(top if sure else -1)
        radii.append(sigma * float(stats.norm.ppf(low)) if sure else 0.0)
    return Certified(np.array(answers, dtype=np.int64), np.array(radii))


def certified_accuracy(found: Certified, labels: np.ndarray, radii: tuple[float, ...]) -> list[dict[str, float | None]]:
    """Share of images answered rightly with a certificate of at least each radius, JSON-ready."""
    right = found.answers == labels
    return [{"radius": r, **proportion(int((right & (found.radius >= r)).sum()), len(labels))} for r in radii]


def _counts(model: Classifier, image: Tensor, sigma: float, samples: int, generator: torch.Generator) -> np.ndarray:
    noise = sigma * torch.randn((samples, *image.shape), generator=generator)
    said = logits(model, (image + noise).clamp(0, 1)).argmax(1).numpy()
    return np.bincount(said, minlength=model.head.out_features)
