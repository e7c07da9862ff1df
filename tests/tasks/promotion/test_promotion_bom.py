"""The bill of materials: strictly valid, the same for the same arguments, and about this candidate."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from promotion_case import STUDENT_TASK, TEACHER, Case

from tasks.promotion.bom import bill_of_materials

MOMENT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
PACKAGES = {"torch": "2.13.0", "Some_Package": "1.0"}


def bill(case: Case, **changes: Any) -> dict[str, Any]:
    given = {"record": case.record, "results": tuple(case.results.values()), "packages": PACKAGES} | changes
    return bill_of_materials("m", given["record"], case.policy, given["results"], given["packages"], decided_at=MOMENT)


def problem(bom: dict[str, Any]) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))


def test_it_is_strictly_valid(case: Case) -> None:
    assert problem(bill(case)) is None
    assert problem({**bill(case), "teacher": "unknown key"}) is not None


@pytest.mark.parametrize(
    "changes",
    [{"results": ()}, {"packages": {}}],
    ids=["no gate", "no package"],
)
def test_it_is_valid_with_little_in_it(case: Case, changes: dict[str, Any]) -> None:
    assert problem(bill(case, **changes)) is None
    bare = case.record.model_copy(update={"parents": {}})
    assert problem(bill(case, record=bare, **changes)) is None


def test_it_names_model_teacher_data_and_packages_by_digest_or_version(case: Case) -> None:
    bom = bill(case)
    model = bom["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": case.record.sha256}]
    assert [a["hashes"][0]["content"] for a in model["pedigree"]["ancestors"]] == [TEACHER]
    kinds = {c["name"]: (c["type"], c.get("version") or c["hashes"][0]["content"]) for c in bom["components"]}
    assert kinds == {
        "teacher": ("machine-learning-model", TEACHER),
        "student_task": ("data", STUDENT_TASK),
        "torch": ("library", "2.13.0"),
        "Some_Package": ("library", "1.0"),
    }
    refs = {c["bom-ref"] for c in bom["components"]}
    assert set(bom["dependencies"][0]["dependsOn"]) == refs
    assert "pkg:pypi/some-package@1.0" in refs
    card = model["modelCard"]
    assert {d["ref"] for d in card["modelParameters"]["datasets"]} <= refs


def test_its_metrics_are_the_gates_figures_with_intervals_and_its_limits_theirs(case: Case) -> None:
    card = bill(case)["metadata"]["component"]["modelCard"]
    metrics = {m["type"].split(":")[0]: m for m in card["quantitativeAnalysis"]["performanceMetrics"]}
    checks = {f"{r.gate}.{c.name}": c for r in case.results.values() for c in r.checks}
    assert metrics.keys() == checks.keys()
    for name, check in checks.items():
        ends = metrics[name]["confidenceInterval"]
        assert float(metrics[name]["value"]) == pytest.approx(check.observed)
        assert (float(ends["lowerBound"]), float(ends["upperBound"])) == pytest.approx(check.ci)
    assert (
        "backdoor: A trigger that depends on the image is not seen." in card["considerations"]["technicalLimitations"]
    )


def test_what_was_not_measured_is_no_metric(case: Case) -> None:
    own = case.results["privacy"]
    unmeasured = own.checks[0].model_copy(update={"observed": None, "ci": None})
    card = bill(case, results=(own.model_copy(update={"checks": (unmeasured,)}),))["metadata"]["component"]["modelCard"]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == []
    assert card["properties"] == [{"name": "gatehouse:gate:privacy@student", "value": "inconclusive"}]


def test_serial_number_and_time_follow_from_candidate_and_decision(case: Case) -> None:
    bom = bill(case)
    assert bom == bill(case)
    assert bom["metadata"]["timestamp"] == "2030-01-02T03:04:05+00:00"
    other = bill(case, record=case.record.model_copy(update={"sha256": "c" * 64}))
    assert bom["serialNumber"] != other["serialNumber"]
