"""Feature squeezing (Xu 2018): an answer that a light blur changes hangs on changes that no eye sees.

Sum of the absolute differences between the softmax of an image and that of its blurred copy, in [0, 2]; one further
pass of the network. It finds small adversarial changes; large ones outlast the blur and lie far off for the others.
"""

from __future__ import annotations

import numpy as np
import torch

from tasks.models.architectures import Classifier
from tasks.models.guards import LowPass
from tasks.models.inference import probabilities
from tasks.serving.guards.pipeline import Kind, Seen, State, Suspicion

BLUR = LowPass()


def learn(_: Seen) -> State:
    """Nothing: the model itself is all that it takes."""
    return {}


def scorer(model: Classifier, _: State) -> Suspicion:
    """Change of the scores."""

    def change(seen: Seen) -> np.ndarray:
        again = probabilities(model, BLUR(torch.from_numpy(seen.images))).double().numpy()
        return np.abs(again - seen.scores).sum(1)

    return change


KIND = Kind(learn, scorer)
