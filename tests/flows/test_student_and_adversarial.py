"""The stages student and adversarial on a tiny project: what they write, and that an interruption changes nothing."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

import flows.student as student_flow
from flows.adversarial import adversarial
from flows.stage import Context
from flows.student import CHECKPOINT, student
from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.gate import GateResult
from tasks.models.architectures import ModelSpec, build, new_head
from tasks.models.checkpoints import load_model, read_record, save_model
from tasks.models.guards import new_guard
from tasks.models.inference import as_float, logits
from tasks.models.training import fit
from tasks.params import Params, load_params
from tasks.risk import decide

SIDE = 16
PLACES = ((1, 6), (10, 6), (6, 1))
CLASSES = ("bottom", "left", "top")
TEACHER = ModelSpec(architecture="simple_cnn", classes=("top", "bottom"), image_size=SIDE)


def squares(n: int, *, seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 100, (n, 1, SIDE, SIDE)).astype(np.uint8), np.arange(n) % classes
    for image, label in zip(images, labels, strict=True):
        top, left = PLACES[label]
        image[0, top : top + 5, left : left + 5] += 70
    return images, labels.astype(np.int64)


class Quiet(Context):
    """A stage's context that keeps its figures instead of sending them to MLflow."""

    def metrics(self, values: dict[str, float | None]) -> None:
        self.__dict__["kept"] = values


class StopError(Exception):
    pass


class Stopped(Quiet):
    def progress(self, done: int, total: int, text: str) -> None:
        if done == 2:
            raise StopError


@pytest.fixture(scope="module")
def params() -> Params:
    own = load_params()
    return own.model_copy(
        update={
            "student": own.student.model_copy(update={"epochs": 3, "batch_size": 32}),
            "adversarial": own.adversarial.model_copy(
                update={"budgets": (0.01, 0.1), "steps": 4, "queries": 20, "images": 60}
            ),
        }
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    recipe = params.student.recipe()
    teacher = build(TEACHER, seed=0)
    fit(teacher, squares(90, seed=3, classes=2), squares(40, seed=4, classes=2), recipe, policy="all", seed=0)
    save_model(Path("models/teacher"), teacher, TEACHER)
    for i, name in enumerate(("canary0_undefended_none", "clean0_defended_all"), start=1):
        other = build(TEACHER, seed=i)
        fit(other, squares(90, seed=i + 5, classes=2), squares(40, seed=4, classes=2), recipe, policy="all", seed=i)
        save_model(Path("models/drill") / name, other, TEACHER)
    data = Path("data/student_task")
    data.mkdir(parents=True)
    images, labels = squares(300, seed=0, classes=3)
    np.save(data / "images.npy", images)
    write_json(data / "classes.json", CLASSES)
    split = np.array(["train", "train", "train", "val", "test"])[np.arange(300) // 3 % 5]
    names = [CLASSES[i] for i in labels]
    pd.DataFrame({"label": names, "split": split}).to_parquet(data / "manifest.parquet")
    write_json(Path("reports/drill.json"), {"freeze": {"policy": 2, "reason": "measured"}})
    write_json(Path("reports/policy.json"), decide(params.risk).model_dump(mode="json"))
    return tmp_path


def context(params: Params, stage: str = "student", candidate: str = "", kind: type[Quiet] = Quiet) -> Quiet:
    return kind(stage, candidate, params, Console(quiet=True), "run")


def digests(folder: Path) -> dict[str, str]:
    found = [p for part in ("models/trained", "reports") for p in sorted((folder / part).rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def left_behind() -> list[Path]:
    return list(CHECKPOINT.parent.iterdir()) if CHECKPOINT.parent.exists() else []


def test_a_student_that_was_interrupted_leaves_the_same_bytes_in_every_file(folder: Path, params: Params) -> None:
    student(context(params))
    undisturbed = digests(folder)
    assert {Path(p).name for p in undisturbed} >= {"model.safetensors", "student.json", "learning_curve.json"}
    assert not left_behind()

    with pytest.raises(StopError):
        student(context(params, kind=Stopped))
    (checkpoint,) = left_behind()
    left = CHECKPOINT.parent / f".{checkpoint.name}.123.partial"  # as a kill while writing leaves it
    left.touch()
    student(context(params))
    assert digests(folder) == undisturbed
    assert not left_behind()


def test_what_the_student_stage_reports(folder: Path, params: Params) -> None:
    student(context(params))
    report: dict[str, Any] = read_json(Path("reports/student.json"))
    record = read_record(Path("models/trained/student"))
    assert report["sha256"] == record.sha256
    assert record.spec.classes == CLASSES
    assert record.parents == {
        "teacher": read_record(Path("models/teacher")).sha256,
        "student_task": hashlib.sha256(Path("data/student_task/manifest.parquet").read_bytes()).hexdigest(),
    }
    assert report["freeze"] == {"policy": 2, "reason": "measured"}
    assert report["images"] == {"train": 180, "val": 60, "test": 60}
    assert report["parameters"]["frozen"] > 0
    assert report["inspection"]["n"] == 180
    assert len(report["inspection"]["findings"]) == 6
    curve, rows = (read_json(Path(f"reports/plots/{n}.json")) for n in ("learning_curve", "confusion"))
    assert [e["epoch"] for e in curve] == list(range(1, report["epochs"] + 1))
    assert len(rows) == report["n"] == 60
    right = sum(row["actual"] == row["predicted"] for row in rows) / 60
    assert report["accuracy"]["value"] == pytest.approx(right, abs=1e-6)
    assert "images_per_second" not in json.dumps([report, curve])


def test_what_the_adversarial_stage_writes(folder: Path, params: Params) -> None:
    student(context(params))
    model, record = load_model(Path("models/trained/student"))
    save_model(Path("models/student"), model, record.spec)
    own = context(params, "adversarial@student", "student")
    adversarial(own)
    result = GateResult.read(Path("reports/gates/adversarial@student.json"))
    assert [c.name for c in result.checks] == [
        "gray_box_success",
        "black_box_success",
        "attack_sanity",
    ]  # C.4: not exposed
    assert result.subject.sha256 == record.sha256
    assert result.drill is not None
    assert result.drill.planted == result.drill.clean == 4
    report: dict[str, Any] = read_json(Path("reports/adversarial@student.json"))
    assert set(report["curves"]) == {"white_box", "gray_box", "black_box", "noise"}
    strongest = report["curves"]["gray_box"]["points"][-1]["success"]
    assert strongest["value"] == pytest.approx(result.checks[0].observed, abs=1e-6)
    assert [r["trained"] for r in report["by_freeze"]][-1] == "the candidate"
    assert report["by_freeze"][-1]["success"] == report["curves"]["gray_box"]["points"][-1]["success"]
    assert report["by_freeze"][0]["success"]["n"] > report["by_freeze"][1]["success"]["n"] > 0
    assert report["clean_accuracy"]["n"] == report["images"] == 60
    assert {p.name for p in Path("reports/figures/adversarial@student").iterdir()} == {
        "accuracy_against_budget.png",
        "images.png",
        "success_by_freeze.png",
        "teacher_named.png",
    }
    asked = report["fingerprint"]["students"]
    assert [r["student"] for r in asked] == [r["trained"] for r in report["by_freeze"]]
    assert all(set(r["dispersions"]) == {"its teacher", "canary0", "clean0"} for r in asked)
    assert asked[0]["named"] == "its teacher"  # frozen features give the teacher away

    exposed = params.model_copy(update={"risk": params.risk.model_copy(update={"c4_internals_exposed": True})})
    write_json(Path("reports/policy.json"), decide(exposed.risk).model_dump(mode="json"))
    adversarial(own)
    result = GateResult.read(Path("reports/gates/adversarial@student.json"))
    assert [c.name for c in result.checks] == [
        "gray_box_success", "black_box_success", "white_box_success", "attack_sanity",
    ]  # fmt: skip


def test_a_candidate_of_other_images_is_one_clear_error_and_writes_nothing(folder: Path, params: Params) -> None:
    spec = TEACHER.model_copy(update={"image_size": 32})
    save_model(
        Path("models/student"), new_head(build(spec, seed=0), 3, seed=0), spec.model_copy(update={"classes": CLASSES})
    )
    with pytest.raises(GatehouseError, match=r"takes images of 1 channel.* and 32 pixels, its teacher 1"):
        adversarial(context(params, "adversarial@student", "student"))
    assert not Path("reports/gates").exists()


def test_a_guard_is_part_of_the_student_that_is_saved(folder: Path, params: Params) -> None:
    own = params.model_copy(update={"student": params.student.model_copy(update={"guard": "low_pass"})})
    student(context(own))
    model, record = load_model(Path("models/trained/student"))
    assert record.spec.guard == "low_pass"
    images, _ = squares(30, seed=9, classes=3)
    by_hand = new_guard("low_pass", TEACHER.image_size)(as_float(images))  # type: ignore[misc]
    bare = copy.deepcopy(model)
    bare.guard = None
    torch.testing.assert_close(logits(model, images), logits(bare, by_hand))
    assert 0 < read_json(Path("reports/student.json"))["accuracy"]["value"] <= 1


def test_defences_are_tried_in_order_until_one_is_good_enough(
    folder: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_flow, "BUDGET", 0.15)

    def own(enough: float) -> Quiet:
        changes = {"defences": ("none", "low_pass", "neuron_distance"), "defence_enough": enough}
        return context(params.model_copy(update={"student": params.student.model_copy(update=changes)}))

    student(own(1.0))
    report = read_json(Path("reports/student.json"))["defences"]
    assert [t["name"] for t in report["tried"]] == ["none"]
    assert (report["kept"], report["guard"], report["recipe"]["adversarial_budget"]) == ("none", "none", 0)
    student(own(0.0))
    report = read_json(Path("reports/student.json"))["defences"]
    assert [t["name"] for t in report["tried"]] == ["none", "low_pass", "neuron_distance"]
    least = min(report["tried"], key=lambda t: t["fooled_through_teacher"])
    assert report["kept"] == least["name"]
    assert read_record(Path("models/trained/student")).spec.guard == report["guard"]
    assert not left_behind()
