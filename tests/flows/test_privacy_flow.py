"""The private student and the privacy gate as stages, on images whose labels follow no rule: they fit memory only."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file, save_file

from flows import privacy as gate_stage
from flows import private_student as training_stage
from flows.stage import Context
from tasks.errors import GatehouseError
from tasks.files import sha256_file, write_json
from tasks.gate import GateResult
from tasks.models.architectures import ModelSpec, build, new_head
from tasks.models.checkpoints import RECORD, WEIGHTS, load_model, save_model
from tasks.models.training import fit
from tasks.params import Training, load_params
from tasks.privacy.gate_attacks import ATTACKS
from tasks.risk import decide

PROJECT = Path(__file__).resolve().parents[2]
CLASSES = ("covid", "normal", "viral")
SIDE = 16
FAST = {"batch_size": 60, "epochs": 5, "references": 8, "target_epsilon": 1.0}


class Quiet(Context):
    """A stage's context without MLflow, which keeps what it was told."""

    def metrics(self, values):
        self.told = values


def draw(folder: Path, classes: tuple[str, ...], splits: dict[str, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    split = np.repeat(list(splits), list(splits.values()))
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", rng.integers(0, 256, (len(split), 1, SIDE, SIDE), dtype=np.uint8))
    labels = np.array(classes)[np.arange(len(split)) % len(classes)]
    group = np.where(split == "train", (np.arange(len(split)) // 3).astype(str), "")  # three images a person
    pd.DataFrame({"label": labels, "split": split, "group": group}).to_parquet(folder / "manifest.parquet")
    (folder / "classes.json").write_text(json.dumps(classes))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with data, a teacher, a student that learnt its records by heart and one that learnt nothing."""
    root = tmp_path_factory.mktemp("house")
    draw(root / "data/teacher_task", ("normal", "pneumonia"), {"train": 120, "test": 20}, 0)
    draw(root / "data/student_task", CLASSES, {"train": 240, "val": 60, "test": 240}, 1)
    spec = ModelSpec(architecture="simple_cnn", classes=("normal", "pneumonia"), image_size=SIDE)
    teacher = build(spec, seed=0)
    save_model(root / "models/teacher", teacher, spec)
    images = np.load(root / "data/student_task/images.npy")
    labels = (np.arange(540) % 3).astype(np.int64)
    student, own = new_head(teacher, 3, seed=1), spec.model_copy(update={"classes": CLASSES})
    save_model(root / "unaware", student, own)
    training = Training(
        epochs=25,
        learning_rate=0.003,
        backbone_scale=1.0,
        weight_decay=0.0,
        batch_size=40,
        patience=25,
        class_weights=False,
        patch_probability=0.0,
        patch_max_fraction=0.2,
        bfloat16=False,
    )
    known = images[:240], labels[:240]
    fit(student, known, known, training, policy="all", seed=2)
    save_model(root / "by_heart", student, own)
    policy = decide(load_params(PROJECT / "params.yaml").risk)
    secret = root / ".gatehouse/keys/noise.seed"
    secret.parent.mkdir(parents=True)
    secret.write_bytes(bytes(range(32)))  # fixed, so that the private student is the same in every run of the tests
    secret.chmod(0o600)
    write_json(root / "reports/policy.json", policy.model_dump(mode="json"))
    return root


@pytest.fixture(autouse=True)
def _inside(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def context(name: str, candidate: str = "", **changes) -> Quiet:
    params = load_params(PROJECT / "params.yaml")
    section = params.privacy.model_copy(update=FAST | changes)
    console = Console(file=StringIO(), width=160)
    return Quiet(name, candidate, params.model_copy(update={"privacy": section}), console, "run")


def judge(candidate: str, source: str) -> tuple[GateResult, dict]:
    shutil.rmtree(f"models/{candidate}", ignore_errors=True)
    shutil.copytree(source, f"models/{candidate}")
    gate_stage.privacy(context("privacy", candidate))
    report = json.loads(Path(f"reports/privacy@{candidate}.json").read_text())
    return GateResult.read(Path(f"reports/gates/privacy@{candidate}.json")), report


def test_a_student_that_learnt_by_heart_fails_and_one_that_saw_nothing_passes():
    Path("reports/private_student.json").unlink(missing_ok=True)  # of no concern to this candidate
    guilty, report = judge("student", "by_heart")
    assert guilty.verdict == "failed"
    assert guilty.drill.trustworthy
    assert report["train_accuracy"] > 0.9
    assert report["strongest"] in ATTACKS
    assert tuple(a["attack"] for a in report["attacks"]) == ATTACKS
    assert all(len(a["roc"]) <= 40 for a in report["attacks"])
    assert report["subgroups"][0]["membership_advantage"]["value"] > 0.5
    assert "right 50 times in 100 by guessing" in report["in_words"]
    assert Path("reports/figures/privacy@student/roc.png").stat().st_size > 5_000
    innocent, report = judge("student", "unaware")
    assert innocent.verdict == "passed"
    assert [c.name for c in innocent.checks] == ["membership_advantage", "tpr_at_1_fpr"]
    assert report["proof"] is None
    assert any("240 non-members" in limit for limit in innocent.limits)


def test_private_training_repeats_itself_and_its_claim_holds_for_its_own_file_only():
    training_stage.private_student(told := context("private_student"))
    first = sha256_file(Path("models/trained/private_student") / WEIGHTS)
    report = json.loads(Path("reports/private_student.json").read_text())
    training_stage.private_student(context("private_student", references=9, attack_images=50))
    assert sha256_file(Path("models/trained/private_student") / WEIGHTS) == first == report["sha256"]
    assert report["epsilon"] <= 1.0 == pytest.approx(report["epsilon"], rel=0.01)
    assert report["delta"] == pytest.approx(0.1 / 240)
    assert (report["sample_rate"], report["steps"], report["records"]) == (0.25, 20, 240)
    assert {"accuracy", "auc", "recall"} <= set(report["without_privacy"])
    assert told.told["epsilon"] == pytest.approx(report["epsilon"], abs=1e-6)

    model, record = load_model(Path("models/trained/private_student"))
    teacher, parent = load_model(Path("models/teacher"))
    assert float(record.notes["epsilon"]) == pytest.approx(report["epsilon"], rel=1e-4)
    assert record.parents["teacher"] == parent.sha256
    frozen = teacher.blocks.state_dict()
    assert all(torch.equal(v, frozen[k]) for k, v in model.blocks.state_dict().items())  # the head alone is new

    result, said = judge("private_student", "models/trained/private_student")
    assert result.verdict == "passed"
    assert result.checks[2].name == "epsilon"
    assert any("one person has up to 3 of the training images" in limit for limit in result.limits)
    assert said["proof"]["epsilon"] == pytest.approx(report["epsilon"], abs=1e-5)
    assert "which is proven" in said["in_words"]
    changed = Path("changed")
    shutil.copytree("models/trained/private_student", changed)
    tensors = load_file(changed / WEIGHTS)
    tensors["head.bias"] += 0.01
    save_file(tensors, changed / WEIGHTS)
    content = json.loads((changed / RECORD).read_text())
    write_json(changed / RECORD, {**content, "sha256": sha256_file(changed / WEIGHTS)})
    result, _ = judge("private_student", str(changed))
    assert result.verdict == "inconclusive"
    assert any("not proven for this file" in limit for limit in result.limits)


def test_another_seed_or_secret_gives_other_noise():
    def digest(**changes):
        training_stage.private_student(context("private_student", **changes))
        return sha256_file(Path("models/trained/private_student") / WEIGHTS)

    first = digest()
    assert digest(target_epsilon=0.9) != first
    Path(".gatehouse/keys/noise.seed").unlink()
    assert digest() != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 500}, r"has 240 records but privacy\.batch_size = 500"),
        ({"target_epsilon": 1e-7}, r"privacy\.target_epsilon = 1e-07 is not reached"),
        ({"target_delta": 0.5}, r"privacy\.target_delta = 0\.5 lets a mechanism publish"),
    ],
)
def test_what_cannot_be_trained_privately_is_one_clear_error(changes, message):
    with pytest.raises(GatehouseError, match=message):
        training_stage.private_student(context("private_student", **changes))


def test_images_or_classes_that_do_not_fit_are_one_clear_error(tmp_path, house):
    spec = ModelSpec(architecture="simple_cnn", classes=("a", "b"), image_size=32)
    shutil.copytree(house, tmp_path / "house")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "house")
        save_model(Path("models/student"), build(spec.model_copy(update={"image_size": SIDE}), seed=0), spec)
        with pytest.raises(GatehouseError, match="knows the classes a, b"):
            gate_stage.privacy(context("privacy", "student"))
        save_model(Path("models/teacher"), build(spec, seed=0), spec)
        with pytest.raises(GatehouseError, match="takes images of 1 channel"):
            training_stage.private_student(context("private_student"))
