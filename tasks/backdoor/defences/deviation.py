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
    """From uint8 clean images; raises GatehouseError below two of them."""
    return fit_features(features(model, images).double().numpy())


def fit_features(known: np.ndarray) -> Clean:
    """From clean images' features (n, width); the covariance is shrunk (Ledoit and Wolf 2004), so that few are enough.

    Raises:
        GatehouseError: there are fewer than two.
    """
    if len(known) < 2:
        raise GatehouseError(f"The feature filter needs at least 2 clean images but got {len(known)}; give it more.")
    return Clean(known.mean(0), LedoitWolf().fit(known).precision_)


def deviation(model: Classifier, images: np.ndarray, clean: Clean) -> np.ndarray:
    """Squared Mahalanobis distance of each image's features from the clean ones, shape (n,); high is suspicious."""
    return distances(features(model, images).double().numpy(), clean)


def distances(found: np.ndarray, clean: Clean) -> np.ndarray:
    """The same of features (n, width)."""
    away = found - clean.mean
    return np.asarray(((away @ clean.precision) * away).sum(1))
