"""The table of threats: what was tested is said with its verdict, what was not with its reason."""

from __future__ import annotations

import re
from pathlib import Path

from promotion_case import Case

from tasks.gate import Drill
from tasks.promotion.threats import THREATS, threat_table

LINK = re.compile(r" \(\[[^]]+\]\([^)]+\)\)")


def rows(case: Case) -> dict[str, dict[str, object]]:
    return {r["threat"]: r for r in threat_table(case.policy, tuple(case.results.values()))}


def test_the_table_is_that_of_the_documentation(project: Path) -> None:
    """One wording: change docs/coverage.md and tasks/promotion/threats.py together."""
    lines = [line for line in (project / "docs" / "coverage.md").read_text().splitlines() if line.startswith("| ")]
    documented = [tuple(cell.strip() for cell in LINK.sub("", line).strip("| ").split("|")) for line in lines[1:]]
    assert [(t.name, t.owasp, t.atlas, t.tested_by, t.not_seen) for t in THREATS] == documented


def test_a_threat_has_the_verdict_of_its_gate(case: Case) -> None:
    found = rows(case)
    assert {name: r["tested"] for name, r in found.items()} == {
        t.name: "passed" if t.checks else "no gate" for t in THREATS
    }
    assert {c["check"].split(".")[0] for c in found["poisoned model"]["checks"]} == {"backdoor"}
    assert [c["check"] for c in found["transfer learning"]["checks"]] == ["backdoor.trigger_control"]


def test_the_worst_check_decides_and_a_short_drill_proves_nothing(case: Case) -> None:
    own = case.results["backdoor"]
    case.results["backdoor"] = own.model_copy(update={"drill": Drill(planted=2, caught=0, clean=2, accused=0)})
    assert rows(case)["poisoned model"]["tested"] == "inconclusive"
    failed = own.checks[0].model_copy(update={"observed": 0.99, "ci": (0.98, 1.0), "op": "<=", "threshold": 0.1})
    case.results["backdoor"] = own.model_copy(update={"checks": (*own.checks[1:], failed)})
    assert rows(case)["poisoned model"]["tested"] == "failed"


def test_what_was_not_tested_says_why(case: Case) -> None:
    del case.results["privacy"]
    own = case.results["backdoor"]
    rest = tuple(c for c in own.checks if c.name != "trigger_control")
    case.results["backdoor"] = own.model_copy(update={"checks": rest})
    found = rows(case)
    assert (found["membership inference"]["tested"], found["membership inference"]["why"]) == (
        "not tested",
        "gate privacy has no result",
    )
    assert found["transfer learning"]["why"] == "gate backdoor has not measured trigger_control"
    rules = tuple(r.model_copy(update={"required": r.gate != "privacy"}) for r in case.policy.gates)
    case.policy = case.policy.model_copy(update={"gates": rules})
    assert "the policy does not require it" in str(rows(case)["membership inference"]["why"])
