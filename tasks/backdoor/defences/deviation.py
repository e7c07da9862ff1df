"""A filter of inputs by their features: those far from where clean images lie are refused.

A student with frozen features keeps the teacher's reaction to a trigger, and that reaction is no combination of what
clean images excite. Distance by Mahalanobis (Lee 2018, for out-of-distribution inputs), over all classes together: the
class that a backdoored model names is the one thing not to be believed. One pass of the network an input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import LedoitWolf

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import features


@dataclass(frozen=True)
class Clean:
    """Where clean images' penultimate features lie: mean, shape (width,), and precision, shape (width, width)."""

    mean: np.ndarray
    precision: np.ndarray


def fit_clean(model: Classifier, images: np.ndarray) -> Clean:
    """From uint8 clean images; the covariance is shrunk (Ledoit and Wolf 2004), so that few images are enough."""
    if len(images) < 2:
        raise GatehouseError(f"The feature filter needs at least 2 clean images but got {len(images)}; give it more.")
    known = features(model, images).double().numpy()
    fitted = LedoitWolf().fit(known)
    return Clean(known.mean(0), fitted.precision_)


def deviation(model: Classifier, images: np.ndarray, clean: Clean) -> np.ndarray:
    """Squared Mahalanobis distance of each image's features from the clean ones, shape (n,); high is suspicious."""
    away = features(model, images).double().numpy() - clean.mean
    return np.einsum("ni,ij,nj->n", away, clean.precision, away)
