"""A feed is believed when the right key signed it, it is not older than one seen, and it says what a feed says."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.errors import GatehouseError
from tasks.monitoring.advisories import (
    FEED_TYPE,
    Feed,
    FeedState,
    Match,
    accept,
    advisory_findings,
    match,
    open_feed,
    parse_feed,
    seal_feed,
)
from tasks.monitoring.assets import Asset, Register, Version
from tasks.promotion.envelope import seal

KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
BAD = "ab" * 32


def feed(issued: datetime = NOW, severity: str = "critical", **changes: object) -> Feed:
    advisory = {"id": "ADV-1", "text": "Uploaded by a stolen account.", "severity": severity, "sha256": [BAD]}
    return parse_feed({"version": 1, "issued_at": issued, "advisories": [{**advisory, **changes}]}, source="x")


def sealed(content: Feed, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    return json.dumps(seal_feed(content, key)).encode()


def test_what_was_signed_is_what_is_read() -> None:
    assert open_feed(sealed(feed()), KEY.public_key(), source="x") == feed()


def changed(data: bytes) -> bytes:
    envelope = json.loads(data)
    payload = base64.b64decode(envelope["payload"]).replace(b"critical", b"warning ")
    return json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (sealed(feed(), OTHER), "signed by another key"),
        (changed(sealed(feed())), "changed after signing|signature does not match"),
        (json.dumps({**seal_feed(feed(), KEY), "signatures": []}).encode(), "signed by another key"),
        (json.dumps(seal(b"{}", KEY)).encode(), "in-toto"),
        (json.dumps(seal(b"{}", KEY, FEED_TYPE)).encode(), "version is not as it should be"),
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no signed envelope"),
    ],
)
def test_nothing_else_is_believed(data: bytes, words: str) -> None:
    with pytest.raises(GatehouseError, match=words):
        open_feed(data, KEY.public_key(), source="x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": []}, "sha256"),
        ({"sha256": ["AB" * 32]}, "match pattern"),
        ({"severity": "urgent"}, "severity"),
        ({"id": "<b>"}, "id"),
        ({"more": 1}, "more"),
    ],
)
def test_a_malformed_advisory_is_an_error_and_not_no_advisory(changes: dict[str, object], words: str) -> None:
    with pytest.raises(GatehouseError, match=words):
        feed(**changes)


def test_time_moves_forward_only() -> None:
    old, new = feed(NOW - timedelta(days=1)), feed(NOW)
    assert accept(new, old, now=NOW, source="x") is new
    assert accept(new, new, now=NOW, source="x") is new
    with pytest.raises(GatehouseError, match="put an old one back"):
        accept(old, new, now=NOW, source="x")
    with pytest.raises(GatehouseError, match="says something else"):
        accept(feed(NOW, severity="info"), new, now=NOW, source="x")
    with pytest.raises(GatehouseError, match="in the future"):
        accept(feed(NOW + timedelta(days=400)), None, now=NOW, source="x")
    with pytest.raises(GatehouseError, match="timezone"):
        feed(datetime(2026, 5, 1))


def holding(status: str) -> Register:
    version = Version(version="4", sha256="1" * 64, status=status, decided_at="", problem="")
    asset = Asset(kind="teacher", name="honest", algorithm="sha256", digest=BAD, about={}, signed=True, versions=("4",))
    return Register(created_at="", model_name="m", versions=(version,), assets=(asset,))


def said(matches: tuple[Match, ...], state: FeedState | None = None) -> list[tuple[str, str]]:
    state = state or FeedState(source="x", believed="offered", age_days=1.0)
    return [(f.severity, f.cause) for f in advisory_findings(state, matches, since="s", max_days=30)]


@pytest.mark.parametrize(
    ("status", "severity", "wanted"),
    [
        ("champion", "critical", ("critical", "advisory")),
        ("champion", "warning", ("warning", "")),
        ("withdrawn", "critical", ("info", "")),
        ("former champion", "critical", ("info", "")),
    ],
)
def test_an_advisory_weighs_what_it_says_where_the_version_serves(
    status: str, severity: str, wanted: tuple[str, str]
) -> None:
    matches = match(feed(severity=severity), holding(status))
    assert [(m.version, m.kind, m.status) for m in matches] == [("4", "teacher", status)]
    assert said(matches) == [wanted]
    [finding] = advisory_findings(FeedState(source="x"), matches, since="s", max_days=30)
    assert "ADV-1" in finding.reason
    assert BAD[:12] in finding.reason


def test_another_digest_matches_nothing() -> None:
    assert match(feed(sha256=["cd" * 32]), holding("champion")) == ()


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (FeedState(source=""), []),
        (FeedState(source="x", believed="offered", age_days=31.0), [("warning", "")]),
        (FeedState(source="x", believed="last", issued_at="i", problem="Gone."), [("warning", "feed")]),
        (FeedState(source="x", problem="Signed by another.", refused=True), [("critical", "feed")]),
    ],
)
def test_a_feed_that_is_no_use_is_a_finding(state: FeedState, wanted: list[tuple[str, str]]) -> None:
    assert said((), state) == wanted


def test_another_promotion_of_the_same_version_is_another_incident() -> None:
    matches, state = match(feed(), holding("champion")), FeedState(source="x")
    keys = [advisory_findings(state, matches, since=s, max_days=30)[0].key for s in ("monday", "monday", "tuesday")]
    assert keys[0] == keys[1] != keys[2]
