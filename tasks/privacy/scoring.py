"""What an attack's scores are worth: AUC, membership advantage, and true positives where false ones are rare."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from tasks.gate import Check, Frozen
from tasks.stats import Interval, bootstrap, clopper_pearson

LOW_RATES = (0.01, 0.001)  # false-positive rates at which the true positives are reported (Carlini 2022)
FOLDS = 5


class Figure(Frozen):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class RateAt(Frozen):
    """True-positive rate at the strictest threshold that keeps false positives at or below `fpr` of the non-members.

    `false_positives` of `n_non_members` were accused at that threshold, and `fpr_high` is the upper Clopper–Pearson
    bound of the false-positive rate that it really has: with few non-members a small rate cannot be told from a larger.
    """

    fpr: float
    tpr: Figure
    false_positives: int
    fpr_high: float


class AttackFigures(Frozen):
    """One attack on one candidate. `roc` holds (false-positive rate, true-positive rate), at log-spaced rates."""

    attack: str
    n_members: int
    n_non_members: int
    auc: Figure
    membership_advantage: Figure
    tpr_at_fpr: tuple[RateAt, ...]
    roc: tuple[tuple[float, float], ...]


def measure(attack: str, scores: np.ndarray, is_member: np.ndarray, *, seed: int) -> AttackFigures:
    """All figures of an attack that gave `scores`, shape (n,), to records; `is_member`, bool (n,), is the truth."""
    return AttackFigures(
        attack=attack,
        n_members=int(is_member.sum()),
        n_non_members=int((~is_member).sum()),
        auc=auc_figure(scores, is_member, seed=seed),
        membership_advantage=membership_advantage(scores, is_member, seed=seed),
        tpr_at_fpr=tuple(tpr_at_fpr(scores, is_member, fpr) for fpr in LOW_RATES),
        roc=roc(scores, is_member),
    )


def auc(scores: np.ndarray, is_member: np.ndarray) -> float:
    """Probability that a member scores above a non-member, ties half (Mann–Whitney); NaN where a side is empty."""
    m = int(is_member.sum())
    u = len(scores) - m
    if m == 0 or u == 0:
        return float("nan")
    return float((rankdata(scores)[is_member].sum() - m * (m + 1) / 2) / (m * u))


def auc_figure(scores: np.ndarray, is_member: np.ndarray, *, seed: int) -> Figure:
    """`auc` with its bootstrap interval over records."""
    return _figure(auc(scores, is_member), bootstrap(auc, scores, is_member, seed=seed))


def membership_advantage(scores: np.ndarray, is_member: np.ndarray, *, seed: int) -> Figure:
    """max |TPR − FPR| over thresholds, measured on records that had no part in choosing the threshold.

    The maximum over thresholds on one sample is too high (.05 for 500 records a side and no leak at all). So threshold
    and direction come from four fifths of the records and are applied to the fifth left out, in turn; what is measured
    is the advantage of an attacker who has to choose so, in expectation at most the true maximum. The interval combines
    the Clopper–Pearson intervals of TPR and FPR (Newcombe 1998, method 10); value and lower end are cut at 0.
    """
    fold = np.empty(len(scores), int)
    rng = np.random.default_rng(seed)
    for side in (is_member, ~is_member):
        fold[side] = rng.permutation(int(side.sum())) % FOLDS
    called = np.empty(len(scores), bool)
    for k in range(FOLDS):
        threshold, above = _best_threshold(scores[fold != k], is_member[fold != k])
        own = fold == k
        called[own] = (scores[own] > threshold) == above
    hits, members = int(called[is_member].sum()), int(is_member.sum())
    alarms, others = int(called[~is_member].sum()), int((~is_member).sum())
    tpr, fpr = hits / members, alarms / others
    (tpr_low, tpr_high), (fpr_low, fpr_high) = clopper_pearson(hits, members), clopper_pearson(alarms, others)
    # Measured below 0 is chance: the interval then still has the width above 0 that this many records give.
    value = max(tpr - fpr, 0.0)
    low = max(tpr - fpr - float(np.hypot(tpr - tpr_low, fpr_high - fpr)), 0.0)
    high = min(value + float(np.hypot(tpr_high - tpr, fpr - fpr_low)), 1.0)
    return _figure(value, (low, high))


def _best_threshold(scores: np.ndarray, is_member: np.ndarray) -> tuple[float, bool]:
    """Threshold t and direction (whether above t says "member") with the largest |TPR − FPR| on these records."""
    order = np.argsort(scores, kind="stable")
    s, m = scores[order], is_member[order]
    below_m, below_u = np.cumsum(m) / max(m.sum(), 1), np.cumsum(~m) / max((~m).sum(), 1)
    gap = np.where(np.append(s[1:] > s[:-1], True), below_u - below_m, 0.0)  # no threshold lies between equal scores
    best = int(np.abs(gap).argmax())
    return float(s[best]), bool(gap[best] >= 0)


def tpr_at_fpr(scores: np.ndarray, is_member: np.ndarray, fpr: float) -> RateAt:
    """True-positive rate at a false-positive rate of at most `fpr`; its threshold depends on the non-members alone."""
    others = np.sort(scores[~is_member])[::-1]
    allowed = int(np.floor(fpr * len(others)))
    threshold = others[allowed]  # "member" means above it: the `allowed` larger ones, fewer where scores tie
    hits, members = int((scores[is_member] > threshold).sum()), int(is_member.sum())
    alarms = int((others > threshold).sum())
    return RateAt(
        fpr=fpr,
        tpr=_figure(hits / members, clopper_pearson(hits, members)),
        false_positives=alarms,
        fpr_high=round(clopper_pearson(alarms, len(others))[1], 6),
    )


def roc(scores: np.ndarray, is_member: np.ndarray, points: int = 40) -> tuple[tuple[float, float], ...]:
    """(FPR, TPR) at log-spaced false-positive rates from one of the non-members to all of them."""
    others = np.sort(scores[~is_member])[::-1]
    members = np.sort(scores[is_member])
    alarms = np.unique(np.geomspace(1, len(others), points).round().astype(int))
    thresholds = np.append(others, -np.inf)[alarms]
    hits = len(members) - np.searchsorted(members, thresholds, side="right")
    real = np.searchsorted(-others, -thresholds, side="left")  # fewer than wanted where scores tie
    return tuple((round(a / len(others), 6), round(h / len(members), 6)) for a, h in zip(real, hits, strict=True))


def worst(figures: list[Figure]) -> int:
    """Index of the figure whose upper end is highest, the first of equals."""
    return int(np.argmax([f.high for f in figures]))


def attack_checks(
    advantages: dict[str, Figure],
    rates: dict[str, RateAt],
    *,
    n: int,
    advantage_threshold: float,
    tpr_threshold: float,
) -> tuple[Check, Check]:
    """The two checks of the gate, each on the attack that did best. The drill judges by the same two.

    Args:
        advantages, rates: by attack; rates are those at a false-positive rate of 1 %.
        n: records attacked, members and non-members together.
    """
    strongest = list(advantages)[worst(list(advantages.values()))]
    sharpest = list(rates)[worst([r.tpr for r in rates.values()])]
    advantage, tpr = advantages[strongest], rates[sharpest].tpr
    return (
        Check(
            name="membership_advantage",
            metric=f"max |TPR − FPR| of the strongest attack ({strongest})",
            observed=advantage.value,
            ci=(advantage.low, advantage.high),
            op="<=",
            threshold=advantage_threshold,
            n=n,
        ),
        Check(
            name="tpr_at_1_fpr",
            metric=f"members recognised at 1 % false positives by the sharpest attack ({sharpest})",
            observed=tpr.value,
            ci=(tpr.low, tpr.high),
            op="<=",
            threshold=tpr_threshold,
            n=n,
        ),
    )


def _figure(value: float, interval: Interval) -> Figure:
    return Figure(value=round(value, 6), low=round(interval[0], 6), high=round(interval[1], 6))
