"""The register says what is in which version, and its JSON Schema says what a register is."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from tasks.models.architectures import ModelSpec
from tasks.models.checkpoints import ModelRecord
from tasks.monitoring.assets import Described, Register, register
from tasks.promotion.statement import Statement

SCHEMA = Path(__file__).parents[3] / "tasks/monitoring/assets.schema.json"
TEACHER, DATA, FILE = "a" * 64, "b" * 64, "c" * 64


def statement(weights: str, **parents: str) -> Statement:
    return Statement.model_validate(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": "urn:gatehouse:promotion:v1",
            "subject": [
                {"name": "model.safetensors", "digest": {"sha256": weights}},
                {"name": "model.json", "digest": {"sha256": "d" * 64}},
            ],
            "predicate": {
                "decision": "promoted",
                "candidate": "student",
                "decided_at": "2026-01-01T00:00:00+00:00",
                "policy": {"sha256": "e" * 64, "content": "e" * 64},
                "gates": [],
                "comparison": {"counts": False, "why": "There is no champion yet."},
                "parents": parents,
                "code": {"revision": "9" * 40, "state": "clean"},
                "tools": {},
                "files": {"params.yaml": "f" * 64, "reference.npz": "1" * 64},
            },
        }
    )


def teacher(**notes: str) -> ModelRecord:
    spec = ModelSpec(architecture="simple_cnn", classes=("a", "b"))
    return ModelRecord(spec=spec, sha256=TEACHER, parents={"file": FILE}, notes=notes)


@pytest.fixture
def two() -> Register:
    known = teacher(card="honest", provider="A hospital", licence="MIT")
    return register(
        "m",
        [
            Described("1", "withdrawn", statement("2" * 64, teacher=TEACHER, student_task=DATA), "", known, True),
            Described("2", "champion", statement("3" * 64, teacher=TEACHER, unmitigated="2" * 64)),
            Described("3", "registered", None, "It has no evidence."),
        ],
        created_at="2026-01-02T00:00:00+00:00",
    )


def test_each_asset_stands_once_with_the_versions_it_is_in(two: Register) -> None:
    [shared] = two.holding(TEACHER)
    assert (shared.kind, shared.versions) == ("teacher", ("1", "2"))
    [file] = two.holding(FILE)
    assert (file.kind, file.about["provider"], file.signed, file.versions) == (
        "teacher file",
        "A hospital",
        True,
        ("1",),
    )
    assert [(a.kind, a.versions) for a in two.holding(DATA)] == [("data", ("1",))]
    assert [(a.kind, a.versions) for a in two.holding("2" * 64)] == [("model", ("1", "2"))]  # the one was the other
    assert two.holding("0" * 64) == ()
    assert {(a.kind, a.algorithm) for a in two.assets if a.algorithm != "sha256"} == {("code", "gitCommit")}


def test_a_version_without_proof_is_listed_without_assets(two: Register) -> None:
    assert [(v.version, v.status, v.problem) for v in two.versions][2] == ("3", "unproven", "It has no evidence.")
    assert all("3" not in a.versions for a in two.assets)


def test_a_register_is_valid_by_the_committed_schema_and_the_schema_is_the_model_s(two: Register) -> None:
    schema = json.loads(SCHEMA.read_text())
    assert schema == Register.model_json_schema(), "write Register.model_json_schema() to assets.schema.json again"
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    content = json.loads(two.model_dump_json())
    assert list(checker.iter_errors(content)) == []
    for broken in (
        {**content, "assets": [{**content["assets"][0], "digest": "not a digest"}]},
        {**content, "assets": [{**content["assets"][0], "versions": []}]},
        {**content, "versions": [{**content["versions"][0], "status": "crowned"}]},
        {k: v for k, v in content.items() if k != "assets"},
    ):
        assert list(checker.iter_errors(broken))
