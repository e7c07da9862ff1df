"""Budgets: as many images as the limit, no more, with a clock that may do what it likes and memory that is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_tools import make_client, tensors

from tasks.risk import Budget
from tasks.serving.budgets import DAY, MINUTE, Budgets
from tasks.serving.errors import RequestError
from tasks.serving.log import read_history


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def wait_of(budgets: Budgets, account: str, budget: Budget, images: int) -> int:
    with pytest.raises(RequestError) as refusal:
        budgets.take(account, budget, images)
    assert (refusal.value.status, refusal.value.code) == (429, "REQUEST_LIMIT_EXCEEDED")
    assert refusal.value.headers["Retry-After"] in refusal.value.message
    return int(refusal.value.headers["Retry-After"])


def test_a_minute_s_budget_refills_evenly() -> None:
    clock, budget = Clock(), Budget(rate_per_minute=60)
    budgets = Budgets(clock=clock)
    budgets.take("a", budget, 60)
    assert wait_of(budgets, "a", budget, 5) == 5
    budgets.take("b", budget, 60)  # another account has its own
    clock.now += 5
    budgets.take("a", budget, 5)
    clock.now -= 500  # a clock that goes back gives nothing and takes nothing
    assert wait_of(budgets, "a", budget, 1) == 1
    clock.now += 500 + 10 * MINUTE
    budgets.take("a", budget, 60)
    assert wait_of(budgets, "a", budget, 1) == 1


def test_a_day_s_budget_and_that_of_all_together() -> None:
    clock = Clock()
    budgets, budget = Budgets(clock=clock), Budget(images_per_day=100, images_per_day_all=150)
    budgets.take("a", budget, 100)
    assert wait_of(budgets, "a", budget, 1) == DAY / 100
    assert wait_of(budgets, "b", budget, 60) == pytest.approx(10 * DAY / 150, abs=1)
    budgets.take("b", budget, 50)
    assert not budgets.fits("c", budget)
    clock.now += DAY
    assert budgets.fits("c", budget)


def test_more_than_the_limit_at_once_waits_for_an_empty_bucket() -> None:
    clock, budget = Clock(), Budget(rate_per_minute=10)
    budgets = Budgets(clock=clock)
    budgets.take("a", budget, 30)
    assert wait_of(budgets, "a", budget, 30) == 180


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 30)), max_size=60))
def test_never_more_than_the_limit_and_what_refilled(asked: list[tuple[int, float]]) -> None:
    clock, budget, passed = Clock(), Budget(rate_per_minute=60), 0
    budgets = Budgets(clock=clock)
    for images, seconds in asked:
        clock.now += seconds
        try:
            budgets.take("a", budget, images)
        except RequestError:
            continue
        passed += images
        assert passed <= 60 + (clock.now - 1000) + 1e-6


def test_without_a_limit_nothing_is_refused() -> None:
    budgets = Budgets()
    for _ in range(100):
        budgets.take("a", Budget(), 10_000)


def test_many_addresses_cost_bounded_memory_and_share_the_total() -> None:
    budgets, budget = Budgets(max_accounts=50, clock=Clock()), Budget(rate_per_minute=1, rate_per_minute_all=1000)
    passed = sum(budgets.fits(f"10.0.{i // 256}.{i % 256}", budget) for i in range(5000))
    assert (len(budgets), passed) == (50, 1000)


def test_a_client_s_ipv6_addresses_share_one_budget() -> None:
    budgets, budget = Budgets(clock=Clock()), Budget(rate_per_minute=1)
    assert budgets.fits("2001:db8::1", budget)
    assert not budgets.fits("2001:db8::ffff:2", budget)
    assert budgets.fits("2001:db8:0:1::1", budget)
    assert budgets.fits("name:with:colons", budget)
    assert not budgets.fits("name:with:colons", budget)


def test_what_was_spent_before_a_restart_counts() -> None:
    budgets, budget = Budgets(clock=Clock()), Budget(images_per_day=100, rate_per_minute=10, images_per_day_all=120)
    budgets.restore({"a": 95, "b": 20})
    assert not [budgets.take("a", budget, 5)][0]
    assert wait_of(budgets, "b", budget, 1) > 0  # all together have spent theirs


def test_over_http_a_spent_budget_is_a_429_and_garbage_costs_too(tmp_path: Path) -> None:
    body = {"inputs": tensors(2).tolist()}
    with make_client(tmp_path, budget=Budget(images_per_day=6)) as client:
        statuses = [client.post("/invocations", json=body).status_code for _ in range(2)]
        statuses += [client.post("/invocations", content=b"{").status_code for _ in range(2)]  # no content type: 415
        refused = client.post("/invocations", json=body)
        v2 = client.post("/v2/models/tiny/infer", json={})
        more = [client.post("/invocations", json=body).status_code for _ in range(80)]
        counted = client.get("/metrics").text
        client.app.state.deployment.log.close()
    assert statuses == [200, 200, 415, 415]
    assert set(more) == {429}
    assert refused.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert int(refused.headers["retry-after"]) > 0
    assert v2.json().keys() == {"error"}
    assert 'gatehouse_requests_total{error="REQUEST_LIMIT_EXCEEDED",status="429"} 82.0' in counted
    logged = read_history(tmp_path / "requests.db", since=0).requests["status"].value_counts()
    assert logged[429] <= 62  # refusals cannot push everything else out of the log
