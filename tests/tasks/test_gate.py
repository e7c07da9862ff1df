"""A gate's verdict: derived from evidence, never typed in, never passed on nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import GatehouseError
from tasks.gate import Check, Drill, GateResult, Subject

SUBJECT = Subject(path="models/student/model.safetensors", sha256="a" * 64)


def check(**changes: object) -> Check:
    content: dict[str, object] = {
        "name": "gray_box_success",
        "metric": "share fooled",
        "observed": 0.2,
        "ci": (0.15, 0.26),
        "op": "<=",
        "threshold": 0.6,
        "n": 200,
    }
    return Check.model_validate({**content, **changes})


def result(*checks: Check, drill: Drill | None = None) -> GateResult:
    return GateResult(
        gate="adversarial", candidate="student", subject=SUBJECT, policy_sha256="p", checks=checks, drill=drill
    )


# --- a check -------------------------------------------------------------------------------------------------------


def test_the_bad_end_of_the_interval_decides() -> None:
    assert check(ci=(0.1, 0.6)).status == "passed"
    assert check(ci=(0.1, 0.61)).status == "failed"  # observed .2 holds, the high end does not
    assert check(op=">=", threshold=0.15).status == "passed"
    assert check(op=">=", threshold=0.16).status == "failed"  # observed .2 holds, the low end does not


@pytest.mark.parametrize(
    "hole",
    [
        {"observed": None},
        {"observed": math.nan},
        {"observed": math.inf},
        {"ci": None},
        {"ci": (math.nan, 0.3)},
        {"ci": (0.1, math.inf)},
        {"n": 0},
        {"threshold": math.nan},
        {"threshold": math.inf},
    ],
)
def test_what_was_not_measured_is_inconclusive(hole: dict[str, object]) -> None:
    assert check(**hole).status == "inconclusive"
    assert result(check(), check(**hole)).verdict == "inconclusive"


figures = st.floats(0, 1)


@given(
    observed=figures,
    low=figures,
    high=figures,
    threshold=figures,
    op=st.sampled_from(["<=", ">="]),
    n=st.integers(0, 5),
)
def test_a_check_passes_only_with_its_whole_interval_on_the_right_side(
    observed: float, low: float, high: float, threshold: float, op: str, n: int
) -> None:
    one = check(observed=observed, ci=(min(low, high), max(low, high)), threshold=threshold, op=op, n=n)
    if one.status == "passed":
        assert n > 0
        assert all(v <= threshold if op == "<=" else v >= threshold for v in (*(one.ci or ()), observed))


def test_a_sentence_names_figure_interval_threshold_and_outcome() -> None:
    assert check(unit="share").sentence() == (
        "gray_box_success: share fooled 0.2 [0.15, 0.26] share, must be <= 0.6 (n = 200): passed"
    )
    assert "not measured no interval" in check(observed=None, ci=None).sentence()


# --- the drill -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planted", "caught", "clean", "accused", "trustworthy"),
    [
        (4, 4, 4, 0, True),
        (4, 3, 4, 2, True),  # three quarters caught, half accused: just enough
        (4, 2, 4, 0, False),
        (4, 4, 4, 3, False),
        (0, 0, 4, 0, False),  # a detector that had nothing to catch proves nothing
        (4, 4, 0, 0, False),
    ],
)
def test_a_drill_is_trusted_by_what_it_caught_and_accused(
    planted: int, caught: int, clean: int, accused: int, trustworthy: bool
) -> None:
    drill = Drill(planted=planted, caught=caught, clean=clean, accused=accused)
    assert drill.trustworthy is trustworthy
    assert result(check(), drill=drill).verdict == ("passed" if trustworthy else "inconclusive")
    assert 0 <= drill.power[0] <= drill.power[1] <= 1
    assert 0 <= drill.false_alarms[0] <= drill.false_alarms[1] <= 1


# --- the verdict ---------------------------------------------------------------------------------------------------

passing, failing, unmeasured = check(), check(ci=(0.5, 0.9)), check(observed=None, ci=None)
drills = st.none() | st.builds(
    lambda p, c, k, a: Drill(planted=p, caught=min(c, p), clean=k, accused=min(a, k)),
    *(st.integers(0, 6) for _ in range(4)),
)


@given(checks=st.lists(st.sampled_from([passing, failing, unmeasured]), max_size=5), drill=drills)
def test_no_verdict_passes_without_full_evidence(checks: list[Check], drill: Drill | None) -> None:
    own = result(*checks, drill=drill)
    if own.verdict == "passed":
        assert checks
        assert all(c.status == "passed" for c in checks)
        assert drill is None or drill.trustworthy
    if failing in checks:
        assert own.verdict == "failed"
    if not checks:
        assert own.verdict == "inconclusive"


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_result_reads_back_as_it_was_written(tmp_path: Path) -> None:
    own = result(check(), check(name="other", observed=math.nan), drill=Drill(planted=4, caught=4, clean=4, accused=0))
    path = own.write(tmp_path)
    assert path.name == "adversarial@student.json"
    assert GateResult.read(path) == own
    written = json.loads(path.read_text())
    assert written["verdict"] == "inconclusive"
    assert [c["status"] for c in written["checks"]] == ["passed", "inconclusive"]


EDITS = {
    "verdict": lambda c: c.update(verdict="passed"),
    "status": lambda c: c["checks"][0].update(status="passed"),
    "observed alone": lambda c: c["checks"][0].update(ci=[0.1, 0.2]),
    "threshold": lambda c: c["checks"][0].update(threshold=0.95),
    "check removed": lambda c: c["checks"].clear(),
    "gate renamed": lambda c: c.update(gate="privacy"),
    "candidate renamed": lambda c: c.update(candidate="private_student"),
    "verdict removed": lambda c: c.pop("verdict"),
    "unknown key": lambda c: c.update(approved=True),
    "digest": lambda c: c["subject"].update(sha256="short"),
    "not checks": lambda c: c.update(checks=[1]),
    "no checks key": lambda c: c.update(checks=None),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_refused(tmp_path: Path, name: str) -> None:
    path = result(failing).write(tmp_path)
    content = json.loads(path.read_text())
    EDITS[name](content)
    path.write_text(json.dumps(content))
    with pytest.raises(GatehouseError, match=r"edited|malformed"):
        GateResult.read(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"passed"', "\xff"])
def test_a_broken_file_is_one_clear_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "adversarial@student.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GatehouseError, match="malformed"):
        GateResult.read(path)


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match=r"adversarial@student\.json is missing"):
        GateResult.read(tmp_path / "adversarial@student.json")
