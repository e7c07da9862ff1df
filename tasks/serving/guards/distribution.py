"""Inputs of another kind than the model learned: the *direction* of their features is foreign, however long they are.

Mahalanobis distance of features that are scaled to length one. The backdoor filter beside it measures length and
direction together, which a weak stimulus (an inverted radiograph, say) can keep small.
"""

from __future__ import annotations

import numpy as np

from tasks.backdoor.defences.deviation import Clean, distances, fit_features
from tasks.models.architectures import Classifier
from tasks.serving.guards.pipeline import Kind, Seen, State, Suspicion, packed, unpacked


def learn(seen: Seen) -> State:
    """Mean and precision of clean images' directions."""
    clean = fit_features(_directions(seen.features))
    return {"mean": packed(clean.mean), "precision": packed(clean.precision)}


def scorer(_: Classifier, state: State) -> Suspicion:
    """Squared Mahalanobis distance of the directions."""
    clean = Clean(unpacked(state["mean"]), unpacked(state["precision"]))
    return lambda seen: distances(_directions(seen.features), clean)


def _directions(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)


KIND = Kind(learn, scorer)
