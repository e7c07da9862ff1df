"""Does somebody build a copy of the model? Queries that keep near to one another, or far from the data, say so.

PRADA in kind (Juuti et al. 2019, "PRADA: Protecting against DNN model stealing attacks"): an extraction's queries lie
at other distances from each other than a service's images do. PRADA tests minimum distances for normality, against a
constant; here they are held against the signed sketches of validation images, so that no constant is chosen by hand.

For a query with n earlier queries and m reference images, let d and r be the distances to the nearest of each. Where
all are drawn alike, n·d^D and m·r^D are exponential with one rate (D: the dimension of the data near a point; Levina
and Bickel 2004), so u = n·d^D / (n·d^D + m·r^D) is uniform: u < 0.1 says *near*, nearer to an own query than the
data explain, however many there are. *Far* is a query farther from the reference than 95 % of its images from each
other. Synthetic queries made from a few images are near; random ones and pictures of another kind are far.

A client repeats patients and a device is replaced, so one odd query in five is tolerated. Evidence is Page's sum of
likelihood ratios (1954), half odd against a fifth odd, per account and over all accounts: as long as no more than a
fifth is odd, the mean wait for a false alarm is at least 1 / FALSE_ALARM queries (Lorden 1971), at any rate of queries.

What it cannot see: images of the same kind as the reference, each another patient's, are what the service is for.
Against those stands the budget of queries; `Account.queries` beside what a copy takes is said as information.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from tasks.gate import Frozen
from tasks.monitoring.findings import Finding
from tasks.serving.sketch import LENGTH

NEAR, FAR = 0.1, 0.05  # nominal shares of benign queries that are near, and far
TOLERATED, SUSPECT = 0.2, 0.5  # shares of odd queries: still benign, and an attack's
FALSE_ALARM = 1e-5  # a query, at the tolerated share
LIMIT = -math.log(FALSE_ALARM)
NEIGHBOURS = 10  # of each reference image, to estimate the dimension
MIN_REFERENCE = 50
MAX_QUERIES = 20_000  # the newest of a window: distances are all against all
MAX_ACCOUNTS = 20
BLOCK = 512
ALL = ""  # the name of the scope over all accounts


class Scope(Frozen):
    """One account's queries, or everybody's (`account` is ""). Shares are of `queries`, evidence is in nats."""

    account: str
    queries: int  # different images that were answered
    near: float
    far: float
    evidence: float  # the highest that it stood
    alarm_at: int | None  # the query of this scope at which it passed the limit
    alarm_time: float | None  # seconds since 1970

    @property
    def kind(self) -> str:
        return "near" if self.near >= self.far else "far"


class Extraction(Frozen):
    """`decided` is False where the reference is too small or nothing was sketched; nothing is then called benign."""

    n_reference: int
    judged: int
    unsketched: int  # answered images without a sketch
    decided: bool
    limit: float
    everybody: Scope | None
    accounts: tuple[Scope, ...]  # those with the most evidence, then the most queries


def extraction(images: pd.DataFrame, reference: np.ndarray) -> Extraction:
    """Judge a window of the log's images, oldest first.

    An image that came before teaches nothing and one that was refused got no answer: both are left out.

    Args:
        images: columns sha256, label ("" where refused), account, time, sketch (bytes, empty where none was kept).
        reference: sketches of validation images, int8 (m, 32).
    """
    answered = images[images["label"] != ""].drop_duplicates("sha256")
    kept = answered[answered["sketch"].str.len() == LENGTH] if len(answered) else answered
    unsketched, kept = len(answered) - len(kept), kept.tail(MAX_QUERIES)
    decided = len(reference) >= MIN_REFERENCE and len(kept) > 0
    everybody, scopes = None, []
    if decided:
        points = np.frombuffer(b"".join(kept["sketch"]), np.int8).reshape(-1, LENGTH)
        names, account = np.unique(kept["account"].to_numpy(str), return_inverse=True)
        near_any, near_own, far = odd_queries(points, account, reference)
        time = kept["time"].to_numpy(float)
        everybody = _scope(ALL, near_any, far, time)
        for i, name in enumerate(names):
            own = account == i
            scopes.append(_scope(str(name), (near_any | near_own)[own], far[own], time[own]))
        scopes.sort(key=lambda s: (-s.evidence, -s.queries, s.account))
    return Extraction(
        n_reference=len(reference),
        judged=len(kept),
        unsketched=unsketched,
        decided=decided,
        limit=round(LIMIT, 2),
        everybody=everybody,
        accounts=tuple(scopes[:MAX_ACCOUNTS]),
    )


def odd_queries(
    points: np.ndarray, account: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each query, oldest first: near to an earlier one of anybody, near to an earlier one of its own account, far.

    Args:
        points, reference: sketches, int8 (n, 32) and (m, 32).
        account: int (n,).

    Returns:
        three bool arrays (n,).
    """
    apart = _distances(reference, reference)
    np.fill_diagonal(apart, np.inf)
    apart.sort(1)
    bound = float(np.quantile(apart[:, 0], 1 - FAR))
    dimension = _dimension(apart[:, :NEIGHBOURS])
    near_any, near_own, far = (np.zeros(len(points), bool) for _ in range(3))
    for start in range(0, len(points), BLOCK):
        block = slice(start, min(start + BLOCK, len(points)))
        order = np.arange(block.start, block.stop)
        to_reference = _distances(points[block], reference).min(1)
        far[block] = to_reference > bound
        to_query = _distances(points[block], points[: block.stop])
        to_query[np.arange(block.stop) >= order[:, None]] = np.inf
        scale = dimension * np.log(to_query.min(1) / to_reference)
        near_any[block] = _is_near(order, scale, len(reference))
        to_query[account[block, None] != account[None, : block.stop]] = np.inf
        earlier = np.isfinite(to_query).sum(1)
        scale = dimension * np.log(to_query.min(1) / to_reference)
        near_own[block] = _is_near(earlier, scale, len(reference))
    return near_any, near_own, far


def _is_near(earlier: np.ndarray, scale: np.ndarray, m: int) -> np.ndarray:
    """u < NEAR, from n and log (d / r)^D; without an earlier query the distance is infinite, and u is 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.log(earlier) + scale - math.log(m)  # of u / (1 − u)
    return np.asarray((earlier > 0) & (odds < math.log(NEAR / (1 - NEAR))))


def _dimension(nearest: np.ndarray) -> float:
    """Levina and Bickel's maximum-likelihood estimate with MacKay's average, from distances to neighbours (m, k)."""
    ratios = np.log(nearest[:, -1:] / nearest[:, :-1])
    return float(1 / max(float(ratios.mean()), 1e-3))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean, float32 (len(a), len(b)); at least half a step, as sketches are rounded."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * x @ y.T
    return np.asarray(np.sqrt(np.maximum(squares, 0) + 0.25))


def _scope(account: str, near: np.ndarray, far: np.ndarray, time: np.ndarray) -> Scope:
    odd = near | far
    sums = page_sums(odd)
    over = np.flatnonzero(sums >= LIMIT)
    return Scope(
        account=account,
        queries=len(odd),
        near=round(float(near.mean()), 4),
        far=round(float(far.mean()), 4),
        evidence=round(float(sums.max()), 2),
        alarm_at=int(over[0]) + 1 if len(over) else None,
        alarm_time=float(time[over[0]]) if len(over) else None,
    )


def page_sums(odd: np.ndarray) -> np.ndarray:
    """Page's cumulative sum after each query: log-likelihood ratios, never below 0."""
    steps = np.where(odd, math.log(SUSPECT / TOLERATED), math.log((1 - SUSPECT) / (1 - TOLERATED)))
    walk = np.cumsum(steps)
    return np.asarray(walk - np.minimum(np.minimum.accumulate(walk), 0.0))


def extraction_findings(found: Extraction | None, *, substitute_queries: int) -> list[Finding]:
    """What to say of it: an alarm of an account or of all together, and accounts that asked as much as a copy takes.

    Args:
        found: None where no proven champion brings a reference.
        substitute_queries: so many different images of the right kind are taken to be enough for a copy.
    """
    if found is None:
        return []
    said = []
    if found.unsketched and not found.judged:
        reason = f"None of {found.unsketched} answered images was sketched: extraction cannot be seen."
        said.append(_say("info", reason, "Set serving.log_sketches to true, if your privacy policy allows it."))
    elif found.judged and not found.decided:
        reason = f"The champion's reference holds {found.n_reference} sketches; {MIN_REFERENCE} are needed."
        said.append(_say("info", reason, "Raise monitoring.reference_images and promote again."))
    alarmed = [s for s in found.accounts if s.alarm_at]
    said += [_alarm(s, f"Account {s.account}") for s in alarmed]
    if found.everybody and found.everybody.alarm_at and not alarmed:
        said.append(_alarm(found.everybody, f"{len(found.accounts)} accounts together"))
    for scope in found.accounts:
        if not scope.alarm_at and scope.queries >= substitute_queries:
            reason = (
                f"Account {scope.account} asked about {scope.queries} different images of the usual kind; "
                f"{substitute_queries} are taken to be enough for a copy (monitoring.substitute_queries)."
            )
            said.append(_say("info", reason, "Nothing if you know the account; otherwise lower its budget of queries."))
    return said


def _alarm(scope: Scope, who: str) -> Finding:
    shares = f"{scope.near:.0%} near to earlier ones, {scope.far:.0%} unlike the data"
    reason = f"{who} asked as an extraction does: of {scope.queries} different images {shares}; "
    reason += f"certain after {scope.alarm_at}."
    if scope.kind == "near":
        step = "Block the account's key, and ask its owner what the images are made from."
        return _say("critical", reason, step, key=f"extraction: {scope.account or 'all'}")
    step = "Ask the account's owner; another device or population looks alike, and then shows as drift too."
    return _say("warning", reason, step, key=f"extraction: {scope.account or 'all'}")


def _say(severity: str, reason: str, next_step: str, key: str = "") -> Finding:
    content = {"severity": severity, "about": "extraction", "reason": reason, "next_step": next_step}
    return Finding.model_validate({**content, "cause": "extraction" if key else "", "key": key})
