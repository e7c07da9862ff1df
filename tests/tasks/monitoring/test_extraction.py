"""Extraction by what its queries look like: sketches made by hand, then real copies of a really trained network."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import extraction as bench
from tasks.monitoring.extraction import LIMIT, Extraction, Scope, extraction, extraction_findings, page_sums
from tasks.serving.sketch import LENGTH

DIMENSIONS = 6


def cloud(n: int, seed: int, spread: float = 20.0) -> np.ndarray:
    """Sketches of a population that varies in a few directions, as images do: int8 (n, 32)."""
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(LENGTH, DIMENSIONS)))[0]
    points = np.random.default_rng([1, seed]).normal(size=(n, DIMENSIONS)) * spread
    return np.clip(np.round(points @ directions.T), -127, 127).astype(np.int8)


def window(sketches: np.ndarray, accounts: int = 1, label: str = "x") -> pd.DataFrame:
    n = len(sketches)
    return pd.DataFrame(
        {
            "sha256": [f"{i}" for i in range(n)],
            "label": label,
            "account": [f"a{i % accounts}" for i in range(n)],
            "time": np.arange(n, dtype=float),
            "sketch": [s.tobytes() for s in sketches],
        }
    )


REFERENCE = cloud(400, 0)


def around(centres: np.ndarray, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(centres[rng.integers(0, len(centres), n)] + rng.integers(-2, 3, (n, LENGTH)), -127, 127).astype(
        np.int8
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("accounts", [1, 10])
def test_the_population_itself_raises_no_alarm_and_is_odd_no_more_often_than_said(seed, accounts):
    found = extraction(window(cloud(3000, 10 + seed), accounts), REFERENCE)
    assert found.decided
    assert not [s for s in (found.everybody, *found.accounts) if s.alarm_at]
    assert found.everybody.near < 0.1
    assert found.everybody.far < 0.1


@pytest.mark.parametrize("accounts", [1, 10])
def test_variants_of_few_images_are_near(accounts):
    variants = around(cloud(30, 5), 300, 1)
    found = extraction(window(variants, accounts), REFERENCE)
    assert found.everybody.alarm_at < 70
    assert found.everybody.kind == "near"
    assert all(s.alarm_at for s in found.accounts)


def test_images_of_another_kind_are_far():
    found = extraction(window(cloud(60, 7, spread=60.0)), REFERENCE)
    assert found.everybody.alarm_at <= 20
    assert found.everybody.kind == "far"


def test_one_attacker_is_named_among_many_and_the_others_are_not():
    parts = [window(cloud(2000, 20), 8), window(around(cloud(20, 21), 200, 2)).assign(account="thief")]
    both = pd.concat(parts).assign(sha256=[f"{i}" for i in range(2200)])
    both["time"] = np.r_[np.arange(2000), np.arange(200) * 10 + 0.5]
    found = extraction(both.sort_values("time"), REFERENCE)
    assert [s.account for s in found.accounts if s.alarm_at] == ["thief"]
    assert found.everybody.alarm_at is None


def test_repeats_and_refused_images_teach_nothing():
    once = window(cloud(50, 3))
    refused = window(cloud(50, 4), label="").assign(sha256="refused")
    found = extraction(pd.concat([once] * 40 + [refused]), REFERENCE)
    assert found.judged == found.everybody.queries == 50
    assert found.everybody.alarm_at is None


def test_without_sketches_or_reference_nothing_is_decided():
    bare = window(cloud(5, 3)).assign(sketch=b"")
    for images, reference in ((bare, REFERENCE), (window(cloud(5, 3)), REFERENCE[:10]), (bare[:0], REFERENCE)):
        found = extraction(images, reference)
        assert not found.decided
        assert found.everybody is None
    said = [
        extraction_findings(extraction(i, r), substitute_queries=9)
        for i, r in ((bare, REFERENCE), (bare[:0], REFERENCE))
    ]
    assert [f.severity for f in said[0]] == ["info"]
    assert said[1] == []
    [small] = extraction_findings(extraction(window(cloud(5, 3)), REFERENCE[:10]), substitute_queries=9)
    assert "50 are needed" in small.reason


def test_page_sums_never_fall_below_zero_and_pass_the_limit_after_thirteen_in_a_row():
    rng = np.random.default_rng(0)
    odd = rng.random(500) < 0.3
    value, by_hand = 0.0, []
    for o in odd:
        value = max(0.0, value + (np.log(2.5) if o else np.log(0.625)))
        by_hand.append(value)
    np.testing.assert_allclose(page_sums(odd), by_hand, atol=1e-9)
    assert np.flatnonzero(page_sums(np.ones(20, bool)) >= LIMIT)[0] + 1 == 13


def scope(account: str, *, alarm_at: int | None = None, near: float = 0.0, queries: int = 100) -> Scope:
    return Scope(
        account=account, queries=queries, near=near, far=0.3, evidence=3.0, alarm_at=alarm_at,
        alarm_time=1.0 if alarm_at else None,
    )  # fmt: skip


def judged(everybody: Scope, *accounts: Scope) -> Extraction:
    return Extraction(
        n_reference=400, judged=100, unsketched=0, decided=True, limit=11.5, everybody=everybody, accounts=accounts
    )


def test_what_is_said():
    def say(everybody: Scope, *accounts: Scope) -> list[tuple[str, str]]:
        found = extraction_findings(judged(everybody, *accounts), substitute_queries=1000)
        assert all(f.about == "extraction" and f.next_step for f in found)
        return [(f.severity, f.reason) for f in found]

    calm = scope("")
    assert extraction_findings(None, substitute_queries=1) == say(calm, scope("a")) == []
    [(severity, reason)] = say(scope("", alarm_at=5), scope("a", alarm_at=20, near=0.8))
    assert severity == "critical"
    assert "Account a" in reason
    assert "after 20" in reason
    assert say(calm, scope("a", alarm_at=20))[0][0] == "warning"
    assert "2 accounts together" in say(scope("", alarm_at=5), scope("a"), scope("b"))[0][1]
    [(severity, reason)] = say(calm, scope("a", queries=1500))
    assert severity == "info"
    assert "1500 different images" in reason


@pytest.fixture(scope="module")
def victim():
    v = bench.victim(0, images=900)
    assert v.agreement(bench.as_float(bench.pictures(900, 77))) > 0.8  # there is something to steal
    return v


@pytest.mark.parametrize("name", [n for n in bench.ATTACKS if "X-rays" not in n and "other patients" not in n])
def test_a_copy_is_seen_before_it_agrees_with_the_champion_on_80_percent(victim, name):
    queries = bench.ATTACKS[name](victim, 0)
    alarms = [bench.alarm(extraction(bench.logged(queries, "a", n), victim.reference)) for n in (1, 10)]
    assert all(alarms)
    assert victim.agreement(queries[: max(alarms)]) < 0.8


@pytest.mark.parametrize("seed", range(3))
def test_5000_benign_requests_raise_no_alarm(victim, seed):
    for accounts in (1, 10):
        found = bench.false_alarms(victim, seed, accounts)
        assert found["alarms"] == 0
        assert found["near"] + found["far"] < 0.2
