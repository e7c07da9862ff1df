"""params.yaml: strict and frozen; whatever is wrong is one line that names file, key, value and what is allowed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tasks.errors import GatehouseError
from tasks.params import Adversarial, load_params, parse_params

PROJECT = Path(__file__).resolve().parents[2]


def content() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8")))


def changed(key: str, value: Any) -> dict[str, Any]:
    sections = content()
    *path, last = key.split(".")
    place = sections
    for part in path:
        place = place[part]
    place[last] = value
    return sections


def test_the_projects_own_parameters_are_valid() -> None:
    params = load_params(PROJECT / "params.yaml")
    assert params.run.seed >= 0
    assert isinstance(params.adversarial.budgets, tuple)
    with pytest.raises(ValidationError):
        params.run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("student.epoch", 3, ["student.epoch = 3 is unknown", "epochs"]),
        ("studnet", {}, ["studnet", "unknown", "student"]),
        ("student.epochs", "ten", ["student.epochs = 'ten'", "integer"]),
        ("student.epochs", 0, ["student.epochs = 0", "greater than or equal to 1"]),
        ("student.epochs", True, ["student.epochs = True", "integer"]),
        ("student.freeze", "some", ["student.freeze = 'some'", "'drill'", "'all'", "integer"]),
        ("student.bfloat16", "yes", ["student.bfloat16 = 'yes'", "boolean"]),
        ("data.source", "kaggle", ["data.source = 'kaggle'", "'phantom'"]),
        ("adversarial.budgets", [], ["adversarial.budgets", "rising numbers in (0, 1]"]),
        ("adversarial.budgets", [0.0], ["rising numbers in (0, 1]"]),
        ("adversarial.budgets", [1.5], ["rising numbers in (0, 1]"]),
        ("adversarial.budgets", [0.2, 0.1], ["rising numbers in (0, 1]"]),
        ("adversarial.budgets", [0.1, 0.1], ["rising numbers in (0, 1]"]),
        ("risk.a1_impact_normal", "severe", ["risk.a1_impact_normal = 'severe'", "'low'"]),
        ("providers.offers.honest.conduct", "kind", ["providers.offers.honest.conduct = 'kind'", "'honest'"]),
        ("run", None, ["run = None"]),
    ],
)
def test_a_wrong_value_is_one_line(key: str, value: Any, says: list[str]) -> None:
    with pytest.raises(GatehouseError) as error:
        parse_params(changed(key, value), source="params.yaml")
    text = str(error.value)
    assert text.startswith("params.yaml: ")
    assert "\n" not in text
    for part in says:
        assert part in text


def test_a_missing_key_and_the_count_of_others() -> None:
    sections = content()
    del sections["student"]["epochs"], sections["drill"]["canaries"]
    with pytest.raises(GatehouseError, match=r"key drill\.canaries is missing \(1 more key\(s\) are wrong too\)"):
        parse_params(sections, source="params.yaml")


def test_a_number_of_blocks_is_a_freeze_policy() -> None:
    assert parse_params(changed("student.freeze", 2), source="x").student.freeze == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist here"),
        ("a: [", "not valid YAML"),
        ("\xff", "not valid YAML"),
        ("- 1", "holds list"),
        ("", "NoneType"),
    ],
)
def test_a_file_that_is_no_parameter_file(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GatehouseError, match=says):
        load_params(path)


def test_lists_become_tuples() -> None:
    plain = load_params().adversarial.model_dump(mode="json") | {"budgets": [0.1, 0.2]}
    assert Adversarial.model_validate(plain).budgets == (0.1, 0.2)
