from __future__ import annotations

import json

import numpy as np
import pytest

from tasks.data.inspection import MIN_OUTLYING_SHARE, OUTLYING, SUSPICIOUS, inspect, spectral_signatures
from tasks.errors import GatehouseError

CLASSES = ("a", "b", "c")


def made(seed: int = 0, poison: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of three classes, as after a ReLU; `poison` rows of class b carry the same extra direction."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 900)
    features = np.maximum(rng.normal(size=(900, 32)), 0)
    features[np.arange(900), labels] += 3
    planted = rng.choice(np.flatnonzero(labels == 1), poison, replace=False)
    features[planted, 10:16] += 4
    return features.astype(np.float32), labels, planted


@pytest.mark.parametrize("poison", [15, 30, 60])
def test_planted_rows_are_found_by_both_methods_and_nothing_else(poison: int) -> None:
    features, labels, planted = made(poison=poison)
    report = inspect(features, labels, CLASSES, seed=0)
    for method in ("activation_clustering", "spectral_signatures"):
        found = report.suspicious(method)  # type: ignore[arg-type]
        assert len(set(found) & set(planted)) >= 0.9 * poison
        assert len(set(found) - set(planted)) <= 0.02 * len(labels)
    assert (report.mask() == np.isin(np.arange(len(labels)), report.suspicious())).all()
    flagged = {f.label for f in report.findings if f.suspicious}
    assert flagged == {"b"}


@pytest.mark.parametrize("seed", range(4))
def test_clean_features_are_not_accused(seed: int) -> None:
    features, labels, _ = made(seed)
    assert len(inspect(features, labels, CLASSES, seed=seed).suspicious()) == 0


def test_the_same_seed_gives_the_same_report_and_leaves_numpys_generator_alone() -> None:
    features, labels, _ = made(poison=30)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    first = inspect(features, labels, CLASSES, seed=3)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]
    assert first == inspect(features, labels, CLASSES, seed=3)


def test_spectral_scores_are_those_of_the_paper() -> None:
    """Tran 2018, algorithm 1: the centred features' projection on their top right singular vector."""
    features, labels, _ = made(poison=30)
    own = features[labels == 1].astype(float) + 100  # far from the origin: uncentred scores would differ
    centred = own - own.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    scores = np.abs(centred @ vectors[:, values.argmax()])
    spread = 1.4826 * np.median(np.abs(scores - np.median(scores)))
    distance = (scores - np.median(scores)) / spread
    score, rows = spectral_signatures(own, seed=0, threshold=MIN_OUTLYING_SHARE)
    assert score == pytest.approx((distance > OUTLYING).mean())
    assert len(rows) > 0
    assert set(rows) <= set(np.flatnonzero(distance > SUSPICIOUS))


def test_classes_too_small_or_constant_are_not_judged() -> None:
    features, labels, _ = made()
    labels = np.where((labels == 2) & (np.cumsum(labels == 2) > 20), 0, labels)
    features[labels == 1] = 1.0
    report = inspect(features, labels, CLASSES, seed=0)
    assert {f.label: f.score is None for f in report.findings if f.method == "spectral_signatures"} == {
        "a": False,
        "b": True,
        "c": True,
    }


def test_the_record_is_json_with_counts() -> None:
    features, labels, _ = made(poison=30)
    record = json.loads(json.dumps(inspect(features, labels, CLASSES, seed=0).record(), allow_nan=False))
    assert record["n"] == 900
    assert len(record["findings"]) == 6
    assert all(isinstance(f["suspicious"], int) for f in record["findings"])
    assert record["suspicious"] == sorted(record["suspicious"])


def test_wrong_shapes_and_infinite_features_are_one_sentence() -> None:
    features, labels, _ = made()
    with pytest.raises(GatehouseError, match=r"features of shape \(n, d\)"):
        inspect(features[:10], labels, CLASSES, seed=0)
    features[3, 3] = np.inf
    with pytest.raises(GatehouseError, match="finite features"):
        inspect(features, labels, CLASSES, seed=0)
