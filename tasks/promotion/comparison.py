"""No worse than the reigning champion: balanced accuracy on the same test images, with a paired interval."""

from __future__ import annotations

import numpy as np

from tasks.gate import Check
from tasks.models.metrics import balanced_accuracy
from tasks.promotion.decision import Comparison
from tasks.stats import bootstrap


def compare(
    candidate: np.ndarray,
    champion: np.ndarray,
    labels: np.ndarray,
    *,
    margin: float,
    seed: int,
    version: str,
    sha256: str,
) -> Comparison:
    """Whether the candidate's balanced accuracy may be called no worse than the champion's.

    The difference (candidate − champion) has a bootstrap interval in which both are judged on the same resampled
    images; its low end must not lie below minus `margin` (a non-inferiority test).

    Args:
        candidate, champion: predicted class indices, shape (n,), of the same test images.
        labels: true class indices, shape (n,).
        margin: how much worse is still "no worse", in [0, 1].
    """

    def difference(own: np.ndarray, other: np.ndarray, truth: np.ndarray) -> float:
        return balanced_accuracy(own, truth) - balanced_accuracy(other, truth)

    if not len(labels):
        check = Check(
            name="balanced_accuracy",
            metric="balanced accuracy minus the champion's",
            observed=None,
            ci=None,
            op=">=",
            threshold=-margin,
            n=0,
        )
        return Comparison(counts=True, why="There are no test images.", version=version, sha256=sha256, check=check)
    own, other = balanced_accuracy(candidate, labels), balanced_accuracy(champion, labels)
    check = Check(
        name="balanced_accuracy",
        metric="balanced accuracy minus the champion's",
        observed=own - other,
        ci=bootstrap(difference, candidate, champion, labels, seed=seed),
        op=">=",
        threshold=-margin,
        n=len(labels),
    )
    why = (
        f"On the same {len(labels)} test images the candidate's balanced accuracy is {own:.3f} and the champion's "
        f"(version {version}) {other:.3f}."
    )
    return Comparison(
        counts=True,
        why=why,
        version=version,
        sha256=sha256,
        candidate_balanced_accuracy=own,
        champion_balanced_accuracy=other,
        check=check,
    )
