"""The data stage from end to end on a small phantom, in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from flows.data import data
from flows.stage import Context
from tasks.data.dataset import load_dataset
from tasks.errors import GatehouseError
from tasks.files import sha256_file, write_json
from tasks.gate import GateResult
from tasks.params import Params, parse_params
from tasks.risk import POLICY_FILE, decide

PROJECT = Path(__file__).parents[2]


class Recorded(Context):
    """A context whose figures stay here instead of going to MLflow."""

    def metrics(self, values: dict[str, float | None]) -> None:
        self.recorded = values


def parameters(**changes: Any) -> Params:
    content = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    content["data"] |= {
        "source": "phantom",
        "root": "phantom.py",
        "image_size": 32,
        "channels": 1,
        "teacher_task": {"path": "pneumonia", "images": 200},
        "student_task": {"path": "covid", "images": 300},
        "remedy": "none",
        "declared_source": "phantom",
    }
    content["data"] |= changes
    return parse_params(content, "test")


def run(params: Params) -> Recorded:
    write_json(POLICY_FILE, decide(params.risk).model_dump(mode="json"))
    context = Recorded("data", "", params, Console(quiet=True), "run-1")
    data(context)
    return context


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phantom.py").write_bytes((PROJECT / "tasks/data/phantom.py").read_bytes())
    return tmp_path


def test_the_stage_writes_data_report_figures_and_gate_and_does_so_again_alike(place: Path) -> None:
    context = run(parameters())
    report = json.loads((place / "reports/data.json").read_text())
    assert set(report) == {"tasks", "overlap", "shortcut", "quarantined"}
    assert report["overlap"]["exact"] == 2
    assert {q["reason"] for q in report["quarantined"]} == {
        "unreadable",
        "blank",
        "exact duplicate",
        "content under two labels",
    }
    assert set(report["shortcut"]["by_remedy"]) == {"none", "crop", "mask_corners"}
    result = GateResult.read(place / "reports/gates/data@student_task.json")
    assert result.verdict == "passed", [c.sentence() for c in result.checks if c.status != "passed"]
    assert result.subject.sha256 == sha256_file(place / "data/student_task/manifest.parquet")
    assert result.run_id == "run-1"
    for task, classes in (("teacher_task", 2), ("student_task", 3)):
        dataset = load_dataset(place / "data" / task)
        assert len(dataset.classes) == classes
        assert dataset.images.shape[1:] == (1, 32, 32)
        assert sum(sum(c.values()) for c in report["tasks"][task]["classes"].values()) == len(dataset.images)
    assert len(list((place / "reports/figures/data").glob("*.png"))) == 5
    assert context.recorded["overlap_exact"] == 2

    first = {p: p.read_bytes() for p in [*place.glob("data/*/*"), *place.glob("reports/figures/data/*")]}
    run(parameters())
    assert {p: p.read_bytes() for p in first} == first
    again = json.loads((place / "reports/data.json").read_text())
    assert again["tasks"]["student_task"]["source"]["status"] == "unchanged"
    assert report["tasks"]["student_task"]["source"]["status"] == "first seen"


def folders(root: Path, changed: int = 0) -> None:
    """Three classes of pictures for either task; with `changed`, other pictures of the first class."""
    from PIL import Image

    for task in ("t", "s"):
        for k, label in enumerate(("a", "b", "c")):
            (root / task / label).mkdir(parents=True, exist_ok=True)
            for i in range(40):
                rng = np.random.default_rng([ord(task), k, i, changed if k == 0 else 0])
                small = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
                small.resize((32, 32), Image.Resampling.BICUBIC).save(root / task / label / f"{i}.png")


def test_a_source_that_changed_under_its_declaration_fails_until_it_is_declared_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.data.REMEDIES", ("none",))  # one probe and no figures: four runs in a few seconds
    monkeypatch.setattr("flows.data._figures", lambda *_: None)
    on_disk = {
        "source": "folder",
        "root": str(place / "images"),
        "teacher_task": {"path": "t", "images": 0},
        "student_task": {"path": "s", "images": 0},
    }
    folders(place / "images")

    def changes(params: Params) -> str:
        run(params)
        result = GateResult.read(place / "reports/gates/data@student_task.json")
        return next(c.status for c in result.checks if c.name == "source_changes")

    assert changes(parameters(**on_disk, declared_source="v1")) == "passed"
    folders(place / "images", changed=1)
    assert changes(parameters(**on_disk, declared_source="v1")) == "failed"
    assert changes(parameters(**on_disk, declared_source="v1")) == "failed"
    assert changes(parameters(**on_disk, declared_source="v2")) == "passed"


def test_bad_input_is_one_sentence_and_leaves_what_was_there(place: Path) -> None:
    kept = place / "data/student_task/manifest.parquet"
    kept.parent.mkdir(parents=True)
    kept.write_text("of an earlier run")
    task = {"path": "absent", "images": 0}
    with pytest.raises(GatehouseError, match=r"absent does not exist; set data.root"):
        run(parameters(source="folder", root=str(place), teacher_task=task, student_task=task))
    assert kept.read_text() == "of an earlier run"
    assert not (place / "reports/data.json").exists()
    (place / ".gatehouse").mkdir()
    (place / ".gatehouse/sources.json").write_text("[]")
    with pytest.raises(GatehouseError, match="holds no record of sources; delete it"):
        run(parameters())
