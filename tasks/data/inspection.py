"""Inspection of training data for poison, on a trained model's features: activation clustering and spectral signatures.

Both look for a minority inside one class whose features stand apart, as images that carry a trigger do when a model
has learnt it. Neither sees a trigger that the model has not learnt, nor one spread evenly over a class.
ART supplies the clustering and the scores, each behind one adapter function below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from art.defences.detector.poison import SpectralSignatureDefense
from art.defences.detector.poison.activation_defence import cluster_activations
from sklearn.metrics import silhouette_score

from tasks.errors import GatehouseError
from tasks.gate import Frozen

Method = Literal["activation_clustering", "spectral_signatures"]
MIN_IMAGES = 40  # of a class: with fewer, two clusters say nothing
LARGEST_POISON_SHARE = 0.35  # Chen 2018, as in ART: a larger cluster is a sub-population, not poison
# Both thresholds were measured on the simple CNN's features, phantom and real X-rays at 64 pixels, clean and with a
# white square on 2 to 10 % of the images. Silhouette: clean classes up to .45, poisoned .29 (at 2 %), .46 to .61.
# Outlying share: clean classes up to .009, poisoned ones .024 to .050.
MIN_SILHOUETTE = 0.5
MIN_OUTLYING_SHARE = 0.02
OUTLYING = 4.0  # robust spreads from the middle: rows that count for the share
SUSPICIOUS = 3.0  # robust spreads: rows that are suspicious once the class is, on the most extreme row's side


class Finding(Frozen):
    """One method's word on one class. `score` is None where the class is too small to judge."""

    method: Method
    label: str
    n: int
    score: float | None
    threshold: float
    suspicious: tuple[int, ...]  # indices into the inspected features


class InspectionReport(Frozen):
    """What the inspection found among `n` images."""

    n: int
    findings: tuple[Finding, ...]

    def suspicious(self, method: Method | None = None) -> np.ndarray:
        """Sorted indices that a method, or any method, calls suspicious; shape (k,)."""
        rows = {i for f in self.findings if method in (None, f.method) for i in f.suspicious}
        return np.array(sorted(rows), dtype=np.int64)

    def mask(self, method: Method | None = None) -> np.ndarray:
        """True where suspicious, shape (n,): what to leave out, or to compare with planted truth."""
        mask = np.zeros(self.n, dtype=bool)
        mask[self.suspicious(method)] = True
        return mask

    def record(self) -> dict[str, Any]:
        """JSON-ready: scores and counts a class and method, and the suspicious indices."""
        rows = [
            f.model_dump(mode="json", exclude={"suspicious"}) | {"suspicious": len(f.suspicious)} for f in self.findings
        ]
        return {"n": self.n, "findings": rows, "suspicious": self.suspicious().tolist()}


def inspect(features: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], seed: int) -> InspectionReport:
    """Look for poison in every class by both methods.

    Args:
        features: penultimate features of the training images, shape (n, d), from a model trained on them.
        labels: the labels they were trained with, shape (n,), indices into `classes`.

    Raises:
        GatehouseError: shapes differ, or a feature is not finite.
    """
    if features.ndim != 2 or len(features) != len(labels):
        raise GatehouseError(
            f"Inspection needs features of shape (n, d) and n labels, not {features.shape} and {labels.shape}; "
            "compute them again from the same images."
        )
    if not np.isfinite(features).all():
        raise GatehouseError("Inspection needs finite features; the model's features hold NaN or infinity.")
    findings = []
    for index, label in enumerate(classes):
        rows = np.flatnonzero(labels == index)
        own = features[rows].astype(np.float64)
        for method, judge, threshold in (
            ("activation_clustering", activation_clustering, MIN_SILHOUETTE),
            ("spectral_signatures", spectral_signatures, MIN_OUTLYING_SHARE),
        ):
            if len(rows) < MIN_IMAGES or not own.std(axis=0).any():
                score, chosen = None, np.empty(0, int)
            else:
                score, chosen = judge(own, seed=seed, threshold=threshold)
            findings.append(
                Finding(
                    method=method,
                    label=label,
                    n=len(rows),
                    score=score,
                    threshold=threshold,
                    suspicious=tuple(int(i) for i in rows[chosen]),
                )
            )
    return InspectionReport(n=len(labels), findings=tuple(findings))


def activation_clustering(features: np.ndarray, *, seed: int, threshold: float) -> tuple[float, np.ndarray]:
    """Two clusters of one class's features (Chen 2018): silhouette, and the smaller cluster where it stands apart.

    Clusters come from ART (PCA to 10 dimensions, k-means). The judgement is ours: in ART 1.20 the silhouette analysis
    un-marks every cluster that it has just marked.

    Args:
        features: of one class, shape (n, d).

    Returns:
        Silhouette of the two clusters in [-1, 1], and the suspicious rows, shape (k,).
    """
    with _seeded(seed):
        clusters, reduced = cluster_activations([features], nb_clusters=2, nb_dims=min(10, len(features)), reduce="PCA")
    sizes = np.bincount(clusters[0], minlength=2)
    if sizes.min() == 0:
        return 0.0, np.empty(0, int)
    silhouette = float(
        silhouette_score(reduced[0], clusters[0], sample_size=min(len(features), 2000), random_state=seed)
    )
    small = int(sizes.argmin())
    apart = silhouette > threshold and sizes[small] / sizes.sum() < LARGEST_POISON_SHARE
    return silhouette, np.flatnonzero(clusters[0] == small) if apart else np.empty(0, int)


def spectral_signatures(features: np.ndarray, *, seed: int, threshold: float) -> tuple[float, np.ndarray]:
    """Outliers along one class's top singular direction (Tran 2018).

    Scores come from ART, on features centred first: ART projects the uncentred ones, the paper the centred. ART then
    removes a fixed share of every class, poisoned or not; here a class counts as poisoned when more rows lie far from
    the bulk than a clean class has, and then the rows outside the bulk on the most extreme one's side are suspicious.

    Args:
        features: of one class, shape (n, d).

    Returns:
        The share of rows more than OUTLYING robust spreads from the middle, and the suspicious rows, shape (k,).
    """
    del seed  # a singular value decomposition draws nothing
    centred = features - features.mean(axis=0)
    scores = SpectralSignatureDefense.spectral_signature_scores(centred)[:, 0]
    middle = float(np.median(scores))
    spread = 1.4826 * float(np.median(np.abs(scores - middle))) + 1e-12
    distance = (scores - middle) / spread
    share = float((distance > OUTLYING).mean())
    if share <= threshold:
        return share, np.empty(0, int)
    same_side = centred @ centred[int(distance.argmax())] > 0
    return share, np.flatnonzero((distance > SUSPICIOUS) & same_side)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """ART's k-means and PCA draw from NumPy's global generator: seed it, and put its state back afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
