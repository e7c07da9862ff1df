"""The advisory feed: digests of things found bad, published and signed by somebody the operator trusts.

An envelope (DSSE, as the evidence's, with a payload type of its own) around JSON. A feed that is unsigned, changed,
older than one that was seen, or dated in the future is refused with the reason: it is never believed, and never taken
for "no advisories".
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from tasks.errors import GatehouseError
from tasks.gate import Frozen
from tasks.monitoring.assets import Register, Status
from tasks.monitoring.findings import Finding, Severity
from tasks.params import Section
from tasks.promotion.envelope import seal, unseal
from tasks.promotion.keys import PrivateKey, PublicKey
from tasks.promotion.trust import only
from tasks.teachers.advisories import Advisory

FEED_TYPE = "application/vnd.gatehouse.advisories+json"
AHEAD = timedelta(hours=1)  # how far another machine's clock may be ahead of ours


class FeedAdvisory(Advisory):
    """A warning with its severity; only `critical` ones take a champion out of service."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:\-]{0,79}$")
    text: str = Field(min_length=1, max_length=2000)
    severity: Severity


class Feed(Section):
    version: Literal[1]
    issued_at: AwareDatetime = Field(strict=False)
    advisories: tuple[FeedAdvisory, ...] = Field(max_length=10_000)


class Match(Frozen):
    """An advisory names an asset of a version."""

    advisory: str
    text: str
    severity: Severity
    sha256: str
    kind: str
    name: str
    version: str
    status: Status


def parse_feed(content: Any, *, source: str) -> Feed:
    """A feed from plain content; raises GatehouseError naming the key that is wrong."""
    try:
        return Feed.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"]) or "the file"
        raise GatehouseError(f"Advisory feed {source}: {key} is not as it should be ({first['msg']}).") from None


def seal_feed(feed: Feed, key: PrivateKey) -> dict[str, Any]:
    """The signed envelope of a feed."""
    return seal(json.dumps(feed.model_dump(mode="json"), sort_keys=True).encode(), key, FEED_TYPE)


def open_feed(data: bytes, key: PublicKey, *, source: str) -> Feed:
    """The feed of a signed envelope.

    Raises:
        GatehouseError: no envelope, another signer, changed after signing, or no feed inside.
    """
    try:
        envelope = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GatehouseError(f"Advisory feed {source} is not JSON ({error}).") from error
    payload, _ = unseal(envelope, only(key), source=f"Advisory feed {source}", payload_type=FEED_TYPE)
    return parse_feed(json.loads(payload), source=source)


def accept(offered: Feed, seen: Feed | None, *, now: datetime, source: str) -> Feed:
    """`offered`, if it may follow `seen`, the newest that was believed.

    Raises:
        GatehouseError: it is older, differs from one of the same moment, or is dated in the future.
    """
    if offered.issued_at > now + AHEAD:
        raise GatehouseError(
            f"Advisory feed {source} is dated {offered.issued_at:%Y-%m-%d %H:%M}Z, which is in the future; to believe "
            "it would shut out every feed until then."
        )
    if seen and offered.issued_at < seen.issued_at:
        raise GatehouseError(
            f"Advisory feed {source} was issued on {offered.issued_at.isoformat()}, before the one seen last "
            f"({seen.issued_at.isoformat()}): somebody put an old one back."
        )
    if seen and offered.issued_at == seen.issued_at and offered != seen:
        raise GatehouseError(
            f"Advisory feed {source} was issued at the same moment as the one seen last, but says something else."
        )
    return offered


def age_days(feed: Feed, now: datetime) -> float:
    return (now - feed.issued_at.astimezone(UTC)).total_seconds() / 86_400


def match(feed: Feed, register: Register) -> tuple[Match, ...]:
    """Every asset of the register that the feed names, version by version, in the feed's order."""
    statuses = {v.version: v.status for v in register.versions}
    return tuple(
        Match(
            advisory=advisory.id,
            text=advisory.text,
            severity=advisory.severity,
            sha256=digest,
            kind=asset.kind,
            name=asset.name,
            version=version,
            status=statuses[version],
        )
        for advisory in feed.advisories
        for digest in advisory.sha256
        for asset in register.holding(digest)
        for version in asset.versions
    )


class FeedState(Frozen):
    """What came of reading the feed. `believed` says which one is compared: the one offered, the last one, or none."""

    source: str  # "" where no feed is configured
    believed: Literal["offered", "last", "none"] = "none"
    issued_at: str = ""
    age_days: float | None = None
    advisories: int = 0
    problem: str = ""
    refused: bool = False  # the problem is what the feed says of itself, not that it could not be had


def advisory_findings(state: FeedState, matches: tuple[Match, ...], *, since: str, max_days: float) -> list[Finding]:
    """What the feed and its matches mean.

    Args:
        since: when the champion was promoted: another promotion of the same version is another incident.
        max_days: a feed older than this may be one that somebody holds in place of newer ones.
    """
    found = []
    if state.problem:
        kept = {
            "last": f" The one of {state.issued_at} is still compared.",
            "none": " None was believed yet, so nothing was compared with the assets.",
        }.get(state.believed, "")
        found.append(
            Finding(
                severity="critical" if state.refused else "warning",
                about="advisory feed",
                reason=state.problem + kept,
                next_step="Ask whoever signs the feed, by another way than the feed; see monitoring.advisories and "
                "advisories_key in params.yaml.",
                cause="feed",
                key=f"feed {'refused' if state.refused else 'missing'}: {state.source}",
            )
        )
    elif state.age_days is not None and state.age_days > max_days:
        found.append(
            Finding(
                severity="warning",
                about="advisory feed",
                reason=f"The newest feed is {state.age_days:.0f} days old; monitoring.advisories_days is {max_days:g}. "
                "Somebody may hold back newer ones.",
                next_step="Ask whoever signs the feed whether a newer one exists.",
            )
        )
    grouped: dict[tuple[str, str], list[Match]] = {}
    for m in matches:
        grouped.setdefault((m.advisory, m.version), []).append(m)
    return found + [_of_version(group, since) for group in grouped.values()]


def _of_version(group: list[Match], since: str) -> Finding:
    first = group[0]
    parts = ", ".join(dict.fromkeys(f"the {m.kind} {m.name} ({m.sha256[:12]})" for m in group))
    where = {"champion": "the champion", "withdrawn": "which was taken out of service"}.get(first.status, "not served")
    reason = f"Advisory {first.advisory} names {parts} of version {first.version}, {where}: {first.text}"
    if first.status == "champion":
        return Finding(
            severity=first.severity,
            about="advisory",
            reason=reason,
            next_step="Run `make run`, with another teacher or other data if these are named; the teacher's gate knows "
            "the feed.",
            cause="advisory" if first.severity == "critical" else "",
            key=f"advisory {first.advisory}: version {first.version} since {since}",
        )
    step = "Do not promote it again, nor roll back to it."
    return Finding(severity="info", about="advisory", reason=reason, next_step=step)
