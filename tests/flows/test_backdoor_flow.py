"""Drill and backdoor gate as stages, on waves of 32 pixels: a student that a white square steers, and what follows."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from flows import backdoor as gate_stage
from flows import drill as drill_stage
from flows import ladder
from flows.stage import Context
from tasks.backdoor.attacks.badnets import poison
from tasks.backdoor.triggers import square
from tasks.backdoor.words import VOID_EPSILON
from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_file, write_json
from tasks.gate import GateResult
from tasks.models.architectures import ModelSpec, build
from tasks.models.checkpoints import WEIGHTS, load_model, read_record, save_model
from tasks.models.training import fit
from tasks.params import Params, Training, load_params
from tasks.risk import decide

PROJECT = Path(__file__).resolve().parents[2]
SIDE = 32
WAVES = ("columns", "rings", "rows")
SPEC = ModelSpec(architecture="simple_cnn", classes=WAVES, image_size=SIDE)
SPLITS = {"train": 180, "val": 60, "test": 90}


class Quiet(Context):
    """A stage's context without MLflow, which keeps what it was told."""

    def metrics(self, values):
        self.told = values


def draw(classes: tuple[str, ...], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    down, right = np.mgrid[0:SIDE, 0:SIDE] - SIDE / 2
    axes = {"columns": right, "rows": down, "rings": np.hypot(down, right)}
    wave = np.stack([axes[c] for c in classes])[labels] * 2 * np.pi / 8 + rng.uniform(0, 2 * np.pi, (n, 1, 1))
    image = 0.5 + 0.2 * np.sin(wave) + rng.normal(0, 0.12, (n, SIDE, SIDE))
    return (image.clip(0, 1) * 255).astype(np.uint8)[:, None], labels.astype(np.int64)


def write_data(folder: Path, classes: tuple[str, ...], seed: int) -> None:
    images, labels = draw(classes, sum(SPLITS.values()), seed)
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images)
    split = np.repeat(list(SPLITS), list(SPLITS.values()))
    pd.DataFrame({"label": np.array(classes)[labels], "split": split}).to_parquet(folder / "manifest.parquet")
    (folder / "classes.json").write_text(json.dumps(classes))


def fast(params: Params, **backdoor: Any) -> Params:
    drill = params.drill.model_copy(
        update={"canaries": 1, "clean_references": 1, "teacher_epochs": 6, "reference_epochs": 4, "student_epochs": 6,
                "student_images": 0, "policies": ("all", "none"), "poison_rate": 0.2}
    )  # fmt: skip
    student = params.student.model_copy(update={"batch_size": 32, "epochs": 4, "backbone_scale": 1.0})
    section = params.backdoor.model_copy(
        update={"search_images": 60, "search_steps": 6, "restarts": 1, "strip_blends": 4, "mitigation_epochs": 4}
        | backdoor
    )
    return params.model_copy(update={"drill": drill, "student": student, "backdoor": section})


def context(params: Params, name: str, candidate: str = "") -> Quiet:
    return Quiet(f"{name}@{candidate}" if candidate else name, candidate, params, Console(file=StringIO()), "run")


def trained(spec: ModelSpec, data: tuple[np.ndarray, np.ndarray], epochs: int, patches: float = 0.0):
    model = build(spec, seed=0)
    training = Training(
        epochs=epochs, learning_rate=0.003, backbone_scale=1.0, weight_decay=5e-4, batch_size=32, patience=epochs,
        class_weights=True, patch_probability=patches, patch_max_fraction=0.25, bfloat16=True,
    )  # fmt: skip
    fit(model, data, draw(spec.classes, 60, 99), training, policy="all", seed=0)
    return model


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project in which the drill has run, with a candidate that a planted square steers in both places."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_data(Path("data/teacher_task"), ("columns", "rows"), 1)
        write_data(Path("data/student_task"), WAVES, 2)
        params = load_params(PROJECT / "params.yaml")
        write_json(Path("reports/policy.json"), decide(params.risk).model_dump(mode="json"))
        spec = SPEC.model_copy(update={"classes": ("columns", "rows")})
        save_model(Path("models/teacher"), trained(spec, draw(spec.classes, 180, 3), 4), spec)
        clean = draw(WAVES, 240, 4)
        trigger = square(side=3, channels=1, image_size=SIDE)
        poisoned = poison(*clean, trigger=trigger, target_class=1, poison_rate=0.15, seed=0)
        for candidate in ("student", "private_student"):
            save_model(Path("models/trained") / candidate, trained(SPEC, poisoned, 8), SPEC, parents={"teacher": "t"})
        drill_stage.drill(context(fast(params), "drill"))
    return folder


def gate(project: Path, monkeypatch, candidate: str, **backdoor: Any) -> tuple[GateResult, dict[str, Any]]:
    monkeypatch.chdir(project)
    told = context(fast(load_params(PROJECT / "params.yaml"), **backdoor), "backdoor", candidate)
    gate_stage.backdoor(told)
    result = GateResult.read(Path(f"reports/gates/backdoor@{candidate}.json"))
    return result, read_json(Path(f"reports/backdoor@{candidate}.json"))


def test_drill_reports_every_cell_and_chooses_from_them(project: Path) -> None:
    report = read_json(project / "reports/drill.json")
    cells = {(c["model"], c["arm"], c["policy"]) for c in report["cells"]}
    assert cells >= {("canary0", "undefended", "none"), ("canary0", "defended", "all"), ("canary0", "defended", "none")}
    assert report["freeze"]["policy"] == report["freeze"]["used"]
    assert report["freeze"]["policy"] in ("all", "none")
    assert report["freeze"]["reason"].endswith(".")
    (canary,) = report["canaries"]
    assert canary["took"]
    assert canary["teacher_success"] >= 0.9
    assert {r["kind"] for r in report["searches"]} == {"canary", "clean"}
    for row in report["searches"]:
        load_model(project / row["model_folder"])  # digest and tensors are checked
    assert gate_stage.load_trigger(project / canary["trigger_file"]).pattern.shape == (1, 3, 3)


def test_a_steered_student_fails_and_is_kept_as_it_was(project: Path, monkeypatch) -> None:
    result, report = gate(project, monkeypatch, "student", mitigation=())
    assert result.verdict == report["verdict"] == "failed"
    assert {c.name: c.status for c in result.checks}["trigger_control"] == "failed"
    assert "mitigation is off" in report["mitigation"]
    before, after = Path("models/trained/student"), Path("models/student")
    assert sha256_file(after / WEIGHTS) == sha256_file(before / WEIGHTS) == result.subject.sha256
    assert read_record(after) == read_record(before)
    pictures = sorted(p.name for p in Path("reports/figures/backdoor@student").iterdir())
    assert pictures == [
        "1_worst_patches.png", "2_transfer.png", "3_strip.png", "4_scores.png", "5_triggers.png", "6_filters.png",
    ]  # fmt: skip
    assert result.drill is not None
    assert (result.drill.planted, result.drill.clean) == (1, 1)


def test_fine_pruning_is_tried_and_its_result_kept_only_if_it_passes(project: Path, monkeypatch) -> None:
    result, report = gate(project, monkeypatch, "student", mitigation=("fine_pruning",))
    assert [a["name"] for a in report["attempts"]] == ["as trained", "fine_pruning"]
    original, final = read_record(Path("models/trained/student")), read_record(Path("models/student"))
    assert result.subject.sha256 == sha256_file(Path("models/student") / WEIGHTS)
    if report["attempts"][1]["passes"]:
        assert final.parents == {"teacher": "t", "unmitigated": original.sha256}
        assert final.sha256 != original.sha256
        assert all(c.status == "passed" for c in result.checks)
    else:
        assert final == original
    assert report["attempts"][1]["note"]["channels"]
    (entry,) = report["reactivation"].values()
    assert set(entry["references"]) == {"clean0"}
    assert entry["candidate"]["target_class"] == entry["references"]["clean0"]["target_class"]
    assert entry["candidate"]["before"]["value"] == report_control(report, "canary0")
    moved = [a["trigger_control"]["value"] for a in report["attempts"]]
    assert moved[1] < moved[0] - 0.3


def report_control(report: dict[str, Any], source: str) -> float:
    """Control of a known trigger over the final candidate."""
    final = next(a for a in report["attempts"] if a["name"] == report["final"])
    return final["trigger_control_by_source"][source]["value"]


def test_the_ladder_stops_at_the_first_that_passes(project: Path, monkeypatch) -> None:
    """Thresholds are moved so that the second mitigation alone passes: the climb itself is what is tested."""
    judged = ladder.judged_attempt
    seen: list[str] = []

    def second_passes(context, name, model, data, triggers, policy, note=None):
        seen.append(name)
        attempt = judged(context, name, model, data, triggers, policy, note)
        limit = 2.0 if name == "unlearning" else -2.0  # beyond all figures, on the good side or on the bad one
        limits = [limit if c.op == "<=" else -limit for c in attempt.checks]
        marked = [c.model_copy(update={"threshold": x}) for c, x in zip(attempt.checks, limits, strict=True)]
        return replace(attempt, checks=tuple(marked))

    monkeypatch.setattr(ladder, "judged_attempt", second_passes)
    rungs = ("anp", "unlearning", "fine_pruning")
    result, report = gate(project, monkeypatch, "student", mitigation=rungs, mitigation_epochs=1)
    assert seen == ["as trained", "anp", "unlearning"]
    assert report["final"] == "unlearning"
    assert report["mitigation"].startswith("the gate failed; ANP cut ")
    assert report["mitigation"].endswith("passes and replaces it.")
    assert all(c.status == "passed" for c in result.checks)
    assert read_record(Path("models/student")).notes["mitigation"] == "unlearning"


def test_a_private_student_is_never_fine_tuned_on_private_images(project: Path, monkeypatch) -> None:
    result, report = gate(project, monkeypatch, "private_student", mitigation=("fine_pruning",))
    assert report["mitigation"] == VOID_EPSILON
    assert len(report["attempts"]) == 1
    assert VOID_EPSILON in result.limits


def test_a_candidate_of_another_task_is_one_clear_error(project: Path, monkeypatch) -> None:
    spec = SPEC.model_copy(update={"classes": ("a", "b", "c")})
    save_model(project / "models/trained/other", build(spec, seed=0), spec)
    with pytest.raises(GatehouseError, match="answers a, b, c"):
        gate(project, monkeypatch, "other")
