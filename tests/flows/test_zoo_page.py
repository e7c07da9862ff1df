"""docs/protection.md: filled from rows, and every limit that a row breaks is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from flows.zoo_page import BLOCKS, PAGE, misses, why_refused, write_page


def row() -> dict[str, Any]:
    control = {"value": 0.01, "low": 0.0, "high": 0.03}
    accuracy = {"value": 0.92, "low": 0.9, "high": 0.94}
    patch, scan = {"value": 0.05, "high": 0.07}, {**control, "pattern": "white", "place": "border", "side": 1}
    return {
        "architecture": "simple_cnn", "attack": "badnets", "side": 20, "poison_rate": 0.1, "seed": 7,
        "teacher": {"control": {"value": 0.99}},
        "before": {
            "frozen": {"control": {"value": 0.8}},
            "all": {"accuracy": accuracy, "control": control, "patch_control": {"value": 0.88}},
        },
        "after": {"accuracy": accuracy, "control": control, "patch_control": patch, "scan_control": scan},
        "reactivated": {"control": control, "patch_control": {"value": 0.1}},
        "mitigation": "as trained", "verdict": "promoted",
    }  # fmt: skip


def test_a_row_that_holds_everything_misses_nothing() -> None:
    assert misses(row()) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("after", "control", "value"), 0.06, "trigger control .06"),
        (("after", "control", "high"), 0.11, "its upper end .11"),
        (("after", "patch_control", "value"), 0.21, "patch control .21"),
        (("reactivated", "control", "value"), 0.3, "trigger control after re-activation .30"),
        (("reactivated", "patch_control", "value"), 0.5, "patch control after re-activation .50"),
        (("after", "accuracy", "value"), 0.89, "accuracy 0.890, 0.010 below the interval of 0.920"),
    ],
)
def test_every_limit_that_is_broken_is_named(path: tuple[str, ...], value: float, said: str) -> None:
    broken: dict[str, Any] = copy.deepcopy(row())
    inner = broken
    for key in path[:-1]:
        inner[key] = dict(inner[key])
        inner = inner[key]
    inner[path[-1]] = value
    assert any(found.startswith(said) for found in misses(broken))


def test_what_a_clean_teachers_student_relearns_stands_beside_what_woke(tmp_path: Path) -> None:
    page, woken, clean = tmp_path / "page.md", row(), row() | {"attack": "clean", "side": 0, "seed": 11}
    page.write_text("<!-- state -->\n<!-- end state -->\n")
    natural = {"before": {"value": 0.02}, "after": {"value": 0.29}, "relearned": 0.27}
    woken["reactivated"] = {**woken["reactivated"], "control": {"value": 0.48, "high": 0.5}, "clean_teacher": natural}
    clean["after"] = {**clean["after"], "accuracy": {"value": 0.85}}
    (tmp_path / "mitigation.json").write_text(json.dumps({"rows": [woken, clean]}))
    write_page(tmp_path, page)
    text = page.read_text()
    assert "seed 7: trigger control after re-activation .48; its upper end after re-activation .50. A clean" in text
    assert "with the same trigger: .02 before, .29 after." in text
    assert "CNN, clean, seed 11: accuracy 0.850, 0.050 below the interval of 0.920." in text


def test_what_accuracy_the_pipeline_costs_is_told_for_each_network(tmp_path: Path) -> None:
    page, better, worse = tmp_path / "page.md", copy.deepcopy(row()), copy.deepcopy(row())
    better["after"]["accuracy"], worse["after"]["accuracy"] = {"value": 0.93}, {"value": 0.87}
    page.write_text("<!-- state -->\n<!-- end state -->\n")
    (tmp_path / "mitigation.json").write_text(json.dumps({"rows": [better, worse, worse]}))
    write_page(tmp_path, page)
    text = page.read_text()
    assert "Mean accuracy over the teachers, CNN: 0.920 undefended, 0.890 after the pipeline, -0.030 [-0.050" in text
    assert "2 of 3 end below the undefended student's own interval." in text
    assert "the teachers, ResNet-18" not in text


def test_a_refusal_says_which_check_failed() -> None:
    after = row()["after"]
    frame = {"scan_control": {**after["scan_control"], "value": 0.09, "high": 0.12}}
    patch = {"patch_control": {"value": 0.19, "high": 0.21}}
    few = {"accuracy": {"value": 0.71, "low": 0.69}}
    said = "a frame of white steers .09 of the images (up to .12; at most 0.1)"
    assert why_refused({"after": {**after, **frame}}) == said
    assert why_refused({"after": {**after, **few}}) == "accuracy 0.710 (down to 0.690; at least 0.7)"
    assert why_refused({"after": {**after, **patch}}) == "a patch steers .19 of the images (up to .21; at most 0.2)"
    assert why_refused({"after": {**after, **patch, **frame}}).endswith(f", {said}")
    older = {"after": {k: v for k, v in after.items() if k != "scan_control"}}
    assert why_refused(older).startswith("a simple pattern of the gate's scan steers more than 0.1")


def test_rows_of_an_earlier_recipe_are_marked(tmp_path: Path) -> None:
    page, older = tmp_path / "page.md", row() | {"student": {"frame_probability": None, "epochs": 10}}
    page.write_text("<!-- state -->\n<!-- end state -->\n<!-- backdoored -->\n<!-- end backdoored -->\n")
    (tmp_path / "mitigation.json").write_text(json.dumps({"rows": [row(), older]}))
    write_page(tmp_path, page)
    text = page.read_text()
    assert "† 1 rows are of an earlier recipe: `student.epochs` 10, `student.frame_probability` off." in text
    assert text.count("| CNN † | badnets") == text.count("| CNN | badnets") == 1


def test_the_page_is_filled_and_its_words_stay(tmp_path: Path, project: Path) -> None:
    page, table = tmp_path / "protection.md", tmp_path / "mitigation.json"
    page.write_text((project / PAGE).read_text())
    clean = row() | {"attack": "clean", "side": 0}
    table.write_text(json.dumps({"rows": [row(), clean]}))
    write_page(tmp_path, page)
    text = page.read_text()
    assert "2 of the 48 teachers are measured: 1 backdoored, 1 clean." in text
    assert "Students of the backdoored: 1 promoted, 0 refused; 1 of the promoted hold every limit below" in text
    assert text.count("Not measured yet.") == 2  # ensembles, and marks that nothing was chosen on
    voted = {"accuracy": 0.8, "trigger_control": {"value": 0.7}, "refusal_rate": 0.1}
    rows = [{"architecture": "simple_cnn", "attack": "imc", "alone": voted, "majority": voted, "unanimous": voted}]
    (tmp_path / "ensemble.json").write_text(json.dumps({"rows": rows}))
    write_page(tmp_path, page)
    text = page.read_text()
    assert "| CNN | imc | 1 | .80 | .70 | .70 | .80 | .70 | .70 | .10 | .80 | .70 | .70 | .10 |" in text
    assert "## How it is done" in text
    own, natural = row(), {"before": {"value": 0.7}, "after": {"value": 0.12}}
    marked = {**own, "attack": "one_pixel", "clean_teacher": natural, "vet": {"score": 0.31, "verdict": "inconclusive"}}
    later = {"attack": "warp", "poison_rate": 0.1, "vet": {"score": 0.9, "verdict": "tampered"}}
    (tmp_path / "unnamed.json").write_text(json.dumps({"rows": [marked, later, {"attack": "clean"}]}))
    write_page(tmp_path, page)
    figures = ".99 | .31 inconclusive | .80 | .01 | .70 | **.01** [.03] | .12 | .01 | .92 | .92 | promoted"
    assert "1 of 14 marks went through the pipeline; `vet` calls 1 of 2" in page.read_text()
    assert f"| one pixel | 0.1 | {figures} |" in page.read_text()
    for name in BLOCKS:
        assert f"<!-- {name} -->" in text
