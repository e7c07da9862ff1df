"""A substitute of the attacker's own, taught by the candidate's answers, whose gradients stand in for the hidden ones.

From fresh weights it needs queries alone (Papernot 2017). From the teacher's weights it is the most that a gray box can
have: it descends as the candidate does, and trains as the candidate did, defence included.
"""

from __future__ import annotations

import copy

import numpy as np
from torch import Tensor

from tasks.evasion.attacks.apgd import apgd_ce
from tasks.evasion.sample import Sample
from tasks.models.architectures import Classifier, new_head
from tasks.models.inference import logits
from tasks.models.training import fit
from tasks.params import Training

EPOCHS = 15
BATCH = 32
HELD_BACK = 5  # one in so many of the attacker's pictures chooses the epoch


def train_substitute(
    candidate: Classifier, start: Classifier, own: np.ndarray, recipe: Training, *, seed: int
) -> Classifier:
    """`start`, trained in place on the candidate's answers, with all its features and the candidate's recipe.

    Args:
        start: with a head for the candidate's classes.
        own: the attacker's pictures, uint8 (n, channels, side, side), a query each; n at least 4.
        recipe: as the attacker knows it; only its length is his own, since he has few pictures.
    """
    labels = logits(candidate, own).argmax(1).numpy()
    back = np.arange(len(own)) % HELD_BACK == 0
    training = recipe.model_copy(update={"epochs": EPOCHS, "patience": EPOCHS, "batch_size": BATCH})
    fit(start, (own[~back], labels[~back]), (own[back], labels[back]), training, policy="all", seed=seed)
    return start


def descendant(
    teacher: Classifier, candidate: Classifier, own: np.ndarray, recipe: Training, *, seed: int
) -> Classifier:
    """The attacker's own student of that teacher, which is left as it is, taught by the candidate's answers."""
    start = new_head(copy.deepcopy(teacher), candidate.head.out_features, seed=seed)
    return train_substitute(candidate, start, own, recipe, seed=seed)


def transfer(substitute: Classifier, sample: Sample, *, eps: float, steps: int, seed: int, bfloat16: bool) -> Tensor:
    """The sample as changed on the substitute: on to the largest loss, since it is another model that shall err."""
    return apgd_ce(
        substitute, sample.x, sample.y, eps=eps, steps=steps, seed=seed, until_fooled=False, bfloat16=bfloat16
    )
