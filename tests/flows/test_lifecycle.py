"""The order of stages, the lock, and what the summary says of missing or edited gate files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flows import lifecycle, summary
from flows.dag import Dag
from tasks.errors import GatehouseError
from tasks.files import write_json
from tasks.gate import Check, GateResult, Subject
from tasks.params import load_params
from tasks.risk import decide


@given(st.lists(st.integers(0, 9), min_size=1, max_size=10), st.randoms())
def test_every_stage_comes_after_what_it_needs(parents: list[int], random: object) -> None:
    names = [f"s{i}" for i in range(len(parents))]
    needs = {f"s{i}": (f"s{p % i}",) if i else () for i, p in enumerate(parents)}
    random.shuffle(names)  # type: ignore[attr-defined]
    order = lifecycle._in_order(Dag({n: needs[n] for n in names}, frozenset()))
    assert sorted(order) == sorted(names)
    assert all(order.index(d) < order.index(n) for n in names for d in needs[n])


def test_a_second_lifecycle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        lifecycle._only_one(),
        pytest.raises(GatehouseError, match=r"already running here \(process \d+\)"),
        lifecycle._only_one(),
    ):
        pass
    with lifecycle._only_one():
        pass


@pytest.fixture
def reports(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    policy = decide(load_params(project / "params.yaml").risk)
    monkeypatch.chdir(tmp_path)
    write_json(Path("reports/policy.json"), policy.model_dump(mode="json"))
    check = Check(name="c", metric="m", observed=0.1, ci=(0.0, 0.2), op="<=", threshold=0.3, n=10)
    for gate, candidate in (("backdoor", "student"), ("backdoor", "private_student")):
        result = GateResult(
            gate=gate,
            candidate=candidate,
            subject=Subject(path="models/x", sha256="0" * 64),
            policy_sha256=policy.sha256,
            checks=(check,),
        )
        result.write()
    return tmp_path / "reports"


def test_gates_of_the_other_candidate_are_not_required(reports: Path) -> None:
    rows = {(r["gate"], r["candidate"]): r for r in summary._gates()}
    assert rows["backdoor", "student"]["required"]
    assert not rows["backdoor", "private_student"]["required"]
    assert rows["backdoor", "student"]["verdict"] == "passed"


def test_an_edited_gate_file_is_inconclusive(reports: Path) -> None:
    path = reports / "gates/backdoor@student.json"
    path.write_text(path.read_text().replace('"threshold": 0.3', '"threshold": 0.1'))
    rows = {(r["gate"], r["candidate"]): r for r in summary._gates()}
    assert rows["backdoor", "student"]["verdict"] == "inconclusive"
    assert "was edited" in rows["backdoor", "student"]["checks"][0]


def test_a_failed_stage_leaves_no_promotion_to_report(reports: Path) -> None:
    write_json(reports / "promotion.json", {"decision": "promoted", "version": "1", "reasons": []})
    stages = [{"name": "data", "state": "failed", "seconds": 0.0, "error": "The folder is empty."}]
    result = summary.collect(stages, "default", 1.0)
    assert result["promotion"]["decision"] == "none"
    console = Console(record=True, width=100)
    summary.show(result, console)
    assert "The folder is empty." in console.export_text()
