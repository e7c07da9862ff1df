"""What the figures mean and what to do about it. A finding has a severity, a reason and a next step."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import chain
from typing import Literal

from pydantic import AwareDatetime

from tasks.gate import Frozen
from tasks.monitoring.drift import MIN_IMAGES, Drift
from tasks.monitoring.requests import RequestStatistics
from tasks.params import Cause

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
REFUSED_SHARE = 0.2  # from here on refusals are more than clients' slips
REFUSED_REQUESTS = 20  # fewer requests say nothing about a share
EXPIRY_DAYS = 30  # from here on it is said that the champion's key ends: nothing is served from that day on


class Finding(Frozen):
    """`cause` is what monitoring.on_incident may name; `key` is the same for as long as it is the same trouble."""

    severity: Severity
    about: str
    reason: str
    next_step: str
    cause: Cause | Literal[""] = ""
    key: str = ""


class Standing(Frozen):
    """What is known of the champion at this moment. `problem` is empty where its evidence verifies."""

    name: str
    version: str = ""
    sha256: str = ""
    exists: bool
    problem: str = ""
    withdrawn: bool = False  # taken out of service by a decision: `problem` then says which, and nothing is wrong
    since: str = ""  # when the newest ruling on it was made, where decisions are recorded
    policy_in_force: bool = True  # the signed policy is the one in reports/policy.json
    signed_by: str = ""  # identifier of the key
    valid_until: AwareDatetime | None = None  # of that key: the evidence counts no longer


def findings(
    standing: Standing,
    requests: RequestStatistics,
    drift: Drift | None,
    *,
    dropped: int,
    infrequent: bool,
    frequent_images_per_hour: int,
    now: datetime,
    also: Iterable[Finding] = (),
) -> tuple[Finding, ...]:
    """Everything worth saying, most severe first.

    Args:
        drift: None where no proven champion brings a reference to measure it against.
        dropped: requests that the log could not keep.
        infrequent: the answer to question C.3 was that queries are not frequent.
        also: findings of other parts, to be sorted in.
    """
    found = [*_champion(standing), *_expiry(standing, now), *also, *_requests(requests, dropped), *_drift(drift)]
    if infrequent:
        found += _frequency(requests, frequent_images_per_hour)
    return by_severity(found)


def by_severity(*found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings, most severe first, otherwise in their order."""
    return tuple(sorted(chain(*found), key=lambda f: SEVERITIES.index(f.severity)))


def _champion(standing: Standing) -> list[Finding]:
    def say(severity: Severity, reason: str, next_step: str) -> Finding:
        return Finding(severity=severity, about="champion", reason=reason, next_step=next_step)

    if not standing.exists:
        return [say("warning", standing.problem, "Run `make run`; see reports/promotion.json if it was refused.")]
    if standing.withdrawn:
        return [say("warning", standing.problem, "Nothing is served until then; close the incident when it is over.")]
    if standing.problem:
        return [
            Finding(
                severity="critical",
                about="champion",
                reason=standing.problem,
                next_step="Find out who moved the alias or changed the files, then run `make run` to have a candidate "
                "decided.",
                cause="unproven",
                key=f"unproven: version {standing.version} since {standing.since}",
            )
        ]
    found = []
    if not standing.policy_in_force:
        text = "The champion was promoted under another policy than the one in force."
        found.append(say("warning", text, "Run `make run`: the gates judge again under the policy in force."))
    return found


def _expiry(standing: Standing, now: datetime) -> list[Finding]:
    until = standing.valid_until
    if standing.problem or until is None or until - now > timedelta(days=EXPIRY_DAYS):
        return []
    return [
        Finding(
            severity="warning",
            about="signing key",
            reason=f"The key {standing.signed_by[:12]}, which the champion is signed with, counts until "
            f"{until:%Y-%m-%d %H:%M} UTC: in {(until - now).days} days nothing will be served.",
            next_step="Run `.venv/bin/python -m flows.promotion rotate`, then `.venv/bin/python -m flows.promotion`, "
            "which decides the champion again and signs with the new key.",
        )
    ]


def _requests(requests: RequestStatistics, dropped: int) -> list[Finding]:
    found = []
    if requests.requests == 0:
        found.append(
            Finding(
                severity="info",
                about="requests",
                reason=f"No request in the last {requests.window_hours:g} hours.",
                next_step="Nothing, if none was expected; otherwise see whether `make serve` runs.",
            )
        )
    if requests.requests >= REFUSED_REQUESTS and requests.refused / requests.requests >= REFUSED_SHARE:
        kinds = ", ".join(f"{k} {v}" for k, v in requests.refusals.items())
        found.append(
            Finding(
                severity="warning",
                about="requests",
                reason=f"{requests.refused} of {requests.requests} requests were refused ({kinds}).",
                next_step="Look at the accounts below: a client may be broken, or somebody probes the service.",
            )
        )
    if dropped:
        found.append(
            Finding(
                severity="warning",
                about="request log",
                reason=f"{dropped} requests were answered but could not be logged.",
                next_step="Look at the service's output for the reason (a full disk, a locked file).",
            )
        )
    return found


def _frequency(requests: RequestStatistics, limit: int) -> list[Finding]:
    return [
        Finding(
            severity="warning",
            about="requests",
            reason=f"Account {a.account} sent {a.images_in_busiest_hour} images within an hour, but the answer to "
            "question C.3 is that queries are not frequent.",
            next_step="Ask the account why; if this is normal, set risk.c3_frequent_queries to true, and the policy "
            "will reveal less (4.2, C.3).",
        )
        for a in requests.accounts
        if a.images_in_busiest_hour >= limit
    ]


def _drift(drift: Drift | None) -> list[Finding]:
    def say(severity: Severity, reason: str, next_step: str) -> list[Finding]:
        cause: Cause | Literal[""] = "drift" if severity == "warning" else ""
        return [Finding(severity=severity, about="drift", reason=reason, next_step=next_step, cause=cause, key="drift")]

    if drift is None:
        return []  # what is wrong with the champion is said above
    if not drift.decided:
        text = f"{drift.n_current} images are too few to tell drift; {MIN_IMAGES} are needed."
        return say("info", text, "Wait for more requests, or raise monitoring.window_hours.")
    names = [s.name for s in drift.statistics if s.drifted]
    listed = f"{len(names)} of {len(drift.statistics)} statistics moved ({', '.join(names)})"
    if drift.drifted:
        return say(
            "warning",
            f"The input drifted: {listed} over {drift.n_current} images.",
            "Look at the figures, find the cause (another device, another population, an attack), and have a sample "
            "labelled; train again on data like it if accuracy suffered.",
        )
    if names:
        return say("info", f"{listed}, which monitoring.drift_share allows.", "Watch the next reports.")
    return []
