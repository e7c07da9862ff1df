"""The guards of one model: each gives every image a suspicion, and what lies above its threshold is refused.

A guard is two functions: `learn` turns clean images into a state that JSON holds, `scorer` turns that state into
suspicions. Thresholds are set at promotion, on clean images that were not learned from (`calibration`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tasks.models.architectures import Classifier
from tasks.models.inference import features

State = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """Images as the model takes them, float32 (n, channels, side, side) in [0, 1], and what it makes of them."""

    images: np.ndarray
    features: np.ndarray  # penultimate, float64 (n, width)
    scores: np.ndarray  # softmax, float64 (n, classes)


Suspicion = Callable[[Seen], np.ndarray]  # (n,); high is suspicious


@dataclass(frozen=True)
class Kind:
    """How a guard learns from clean images, and how it judges others."""

    learn: Callable[[Seen], State]
    scorer: Callable[[Classifier, State], Suspicion]


@dataclass(frozen=True)
class Guard:
    name: str
    suspicion: Suspicion
    threshold: float

    def refuses(self, seen: Seen) -> np.ndarray:
        """Boolean (n,). What is not finite is refused too."""
        return ~(self.suspicion(seen) <= self.threshold)


def see(model: Classifier, images: np.ndarray) -> Seen:
    """One pass of the network over float images: features, and from them the scores."""
    found = features(model, torch.from_numpy(images))
    with torch.no_grad():
        scores = model.head(found).softmax(1)
    return Seen(images, found.double().numpy(), scores.double().numpy())


def refusals(guards: tuple[Guard, ...], seen: Seen) -> list[tuple[str, ...]]:
    """For each image the names of the guards that refuse it. All of them look at every image, refused or not, so that
    the time of an answer does not tell which one it was."""
    masks = [guard.refuses(seen) for guard in guards]
    return [tuple(g.name for g, mask in zip(guards, masks, strict=True) if mask[i]) for i in range(len(seen.images))]


def packed(array: np.ndarray) -> State:
    """An array as JSON: shape and base64 of little-endian float32."""
    return {"shape": list(array.shape), "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def unpacked(content: State) -> np.ndarray:
    """The array in float64; raises ValueError where bytes and shape differ."""
    data = np.frombuffer(base64.b64decode(content["float32"], validate=True), "<f4")
    return data.reshape(content["shape"]).astype(np.float64)
