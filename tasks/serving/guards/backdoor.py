"""The run-time backdoor filter: distance of an input's features from those of clean images (see `defences.deviation`).

Of the four filters that the gate measures it is the best over all, and the cheapest: no pass of the network beside the
answer's own. It refuses much that is no image of the task at all, too.
"""

from __future__ import annotations

from tasks.backdoor.defences.deviation import Clean, distances, fit_features
from tasks.models.architectures import Classifier
from tasks.serving.guards.pipeline import Kind, Seen, State, Suspicion, packed, unpacked


def learn(seen: Seen) -> State:
    """Mean and precision of clean features: figures of all images together, none of a single one."""
    clean = fit_features(seen.features)
    return {"mean": packed(clean.mean), "precision": packed(clean.precision)}


def scorer(_: Classifier, state: State) -> Suspicion:
    """Squared Mahalanobis distance."""
    clean = Clean(unpacked(state["mean"]), unpacked(state["precision"]))
    return lambda seen: distances(seen.features, clean)


KIND = Kind(learn, scorer)
