"""ART's black-box attack behind our door: it finds what is there, guesses where nothing is, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.errors import GatehouseError
from tasks.privacy.art_black_box import KINDS, Kind, black_box_scores, leakage_accuracy
from tasks.privacy.scoring import auc


def answers(n: int, *, surer: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers of two classes: members get their true class `surer` logits more."""
    rng = np.random.default_rng(seed)
    labels, members = rng.integers(0, 2, n), np.arange(n) % 2 == 0
    logit = rng.normal(0.5, 1.0, n) + surer * members
    right = 1 / (1 + np.exp(-logit))
    return np.where(labels[:, None] == [0, 1], right[:, None], 1 - right[:, None]), labels, members


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_told_where_answers_differ_and_not_where_they_do_not(kind: Kind) -> None:
    probability, labels, members = answers(600, surer=4.0)
    scores, rows = black_box_scores(probability, labels, members, kind=kind, seed=1)
    assert len(rows) == 300
    assert members[rows].sum() == 150
    assert auc(scores, members[rows]) > 0.9
    again, _ = black_box_scores(probability, labels, members, kind=kind, seed=1)
    assert np.array_equal(scores, again)
    probability, labels, members = answers(600, surer=0.0)
    scores, rows = black_box_scores(probability, labels, members, kind=kind, seed=1)
    assert abs(auc(scores, members[rows]) - 0.5) < 4 * (301 / (12 * 150 * 150)) ** 0.5


def test_the_studys_figure_is_the_better_attacks_accuracy() -> None:
    assert leakage_accuracy(*answers(600, surer=4.0), seed=0) > 0.85
    assert 0.4 < leakage_accuracy(*answers(600, surer=0.0), seed=0) < 0.62


def test_too_few_records_are_one_clear_error() -> None:
    probability, labels, members = answers(30, surer=1.0)
    with pytest.raises(GatehouseError, match="needs 20 members and 20 others"):
        black_box_scores(probability, labels, members, kind="rf", seed=0)
