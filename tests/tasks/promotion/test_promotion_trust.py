"""Keys come and go: made, entered with a validity, rotated, expired, revoked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from promotion_case import Case

from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.promotion.evidence import verify
from tasks.promotion.keys import key_id, signing_key
from tasks.promotion.trust import load_trust, only, operator_key, revoke, rotate

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "promotion.key"


def edit(path: Path, index: int, **changes: object) -> None:
    store = path.parent / "trusted.json"
    keys = read_json(store)["keys"]
    keys[index] |= changes
    write_json(store, {"keys": keys})
    store.chmod(0o600)


def test_the_pair_that_is_made_is_trusted_for_so_many_days(path: Path) -> None:
    key, trust = operator_key(path, days=10)
    own = trust.keys[0]
    assert load_trust(path) == trust
    assert own.key_id == key_id(key.public_key())
    assert own.not_after is not None
    assert 9 * DAY < own.not_after - datetime.now(UTC) <= 10 * DAY
    assert operator_key(path, days=99)[1] == trust
    assert (path.parent / "trusted.json").stat().st_mode & 0o777 == 0o600


def test_without_a_store_the_public_key_beside_is_trusted(path: Path) -> None:
    key = signing_key(path)
    assert load_trust(path) == only(key.public_key())


@pytest.mark.parametrize(
    ("changes", "signed_at", "reason"),
    [
        ({}, NOW, ""),
        ({"not_before": NOW - DAY, "not_after": NOW + DAY}, NOW, ""),
        ({"not_after": NOW - DAY}, NOW - 2 * DAY, "expired on 2029-12-31"),
        ({"not_before": NOW + DAY}, NOW, "not yet"),
        ({"not_before": NOW - DAY}, NOW - 2 * DAY, "was not valid at"),
        ({"not_after": NOW + DAY}, NOW + 2 * DAY, "was not valid at"),
        ({"revoked_at": NOW + DAY, "reason": "lost"}, NOW - 2 * DAY, r"was revoked on 2030-01-02 (lost)"),
    ],
)
def test_when_a_signature_counts(path: Path, changes: dict[str, object], signed_at: datetime, reason: str) -> None:
    key = only(signing_key(path).public_key()).keys[0].model_copy(update=changes)
    objection = key.objection(signed_at, now=NOW)
    assert (reason in objection) if reason else objection == ""


def test_what_the_old_key_signed_counts_until_it_is_revoked(case: Case) -> None:
    path = case.root / "keys" / "promotion.key"
    old = operator_key(path, days=10)[1].keys[0]
    case.attest()
    new = rotate(path, days=10)
    retired = path.parent / "retired" / f"{old.key_id[:12]}.key"
    assert key_id(signing_key(path).public_key()) == new.key_id != old.key_id
    assert key_id(signing_key(retired).public_key()) == old.key_id  # which also asks that nobody else may read it
    assert retired.parent.stat().st_mode & 0o777 == 0o700
    proven = verify(case.model, trust=load_trust(path))
    assert proven.signed_by == old.key_id
    assert proven.valid_until == old.not_after
    revoke(path, old.key_id[:8], "lost", days=10)
    with pytest.raises(GatehouseError, match=r"was revoked on .* \(lost\); promote again"):
        verify(case.model, trust=load_trust(path))
    case.attest(key=signing_key(path))
    assert verify(case.model, trust=load_trust(path)).signed_by == new.key_id


def test_an_expired_or_revoked_key_helps_no_one_who_writes_an_earlier_time(case: Case) -> None:
    path = case.root / "keys" / "promotion.key"
    operator_key(path, days=10)
    yesterday = datetime.now(UTC) - DAY
    edit(path, 0, not_after=(yesterday + DAY / 2).isoformat())
    case.attest(decided_at=yesterday)
    with pytest.raises(GatehouseError, match="expired on"):
        verify(case.model, trust=load_trust(path))
    edit(path, 0, not_after=None, revoked_at=datetime.now(UTC).isoformat())
    with pytest.raises(GatehouseError, match="was revoked on"):
        verify(case.model, trust=load_trust(path))


def test_the_key_in_use_is_replaced_when_it_is_revoked(path: Path) -> None:
    old = operator_key(path, days=10)[1].keys[0]
    revoke(path, old.key_id, "stolen", days=10)
    key, trust = operator_key(path, days=10)
    assert [bool(k.revoked_at) for k in trust.keys] == [True, False]
    assert trust.keys[1].key_id == key_id(key.public_key())
    with pytest.raises(GatehouseError, match="Nothing to do: the key"):
        revoke(path, old.key_id, "again", days=10)


def test_a_key_is_named_by_enough_digits(path: Path) -> None:
    own = operator_key(path, days=10)[1].keys[0]
    for name in ("", own.key_id[:7], "f" * 64):
        with pytest.raises(GatehouseError, match="has 0 keys"):
            revoke(path, name, "why", days=10)


def test_nothing_is_signed_with_a_key_that_counts_no_more(path: Path) -> None:
    operator_key(path, days=10)
    edit(path, 0, not_after="2020-01-01T00:00:00Z")
    with pytest.raises(GatehouseError, match=r"Nothing can be signed: .* expired on 2020-01-01; run .* rotate"):
        operator_key(path, days=10)
    rotate(path, days=10)
    assert len(operator_key(path, days=10)[1].keys) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key_id": "0" * 64}, "key_id is 000000000000, but the key beside it is"),
        ({"public_key": "no key"}, "no public key in PEM"),
        ({"not_after": "2030-01-01T00:00:00"}, "timezone"),
        ({"limits": "none"}, "Extra inputs"),
    ],
)
def test_a_malformed_store_is_named(path: Path, changes: dict[str, object], reason: str) -> None:
    operator_key(path, days=10)
    edit(path, 0, **changes)
    with pytest.raises(GatehouseError, match=rf"trusted\.json is malformed \(keys\.0.*{reason}"):
        load_trust(path)


def test_a_store_that_others_can_change_is_refused(path: Path) -> None:
    operator_key(path, days=10)
    (path.parent / "trusted.json").chmod(0o666)
    with pytest.raises(GatehouseError, match="chmod 600"):
        load_trust(path)
