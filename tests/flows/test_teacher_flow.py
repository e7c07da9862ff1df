"""Providers' offers and the choice among them, on a task so easy that tiny networks learn it in seconds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from flows.providers import providers
from flows.risk import risk
from flows.stage import Context
from flows.teacher import teacher
from flows.tracking import stage_run
from tasks.errors import GatehouseError
from tasks.files import sha256_file
from tasks.gate import GateResult
from tasks.models.checkpoints import load_model
from tasks.params import load_params

PROJECT = Path(__file__).resolve().parents[2]
SIDE = 16
BARGAIN = "models/teachers/bargain/card.yaml"
FLOWS = {"risk": risk, "providers": providers, "teacher": teacher}


@pytest.fixture(scope="module", autouse=True)
def _one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One MLflow store for all runs of this file: making one takes longer than the flows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
        patch.delenv("PREFECT_API_URL", raising=False)
        yield


def draw_task(folder: Path) -> None:
    """Images that are dark ("normal") or hold a bright bar in the middle ("pneumonia")."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(20, 90, (540, 1, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(540) % 2
    images[labels == 1, :, 6:10, 3:13] += 80
    split = np.array(["train"] * 300 + ["val"] * 120 + ["test"] * 120)
    names = np.array(["normal", "pneumonia"])
    np.save(folder / "images.npy", images)
    pd.DataFrame({"label": names[labels], "split": split}).to_parquet(folder / "manifest.parquet")
    (folder / "classes.json").write_text(json.dumps(names.tolist()))


def run(root: Path, stage: str, **teacher_changes: Any) -> None:
    content = yaml.safe_load((PROJECT / "params.yaml").read_text())
    content["run"]["threads"] = 1
    content["providers"].update(epochs=6, batch_size=16, learning_rate=0.004)
    offers = {"honest": {"conduct": "honest"}, "pickled": {"conduct": "pickled"}}
    offers["bargain"] = {"conduct": "backdoored", "trigger_fraction": 0.2, "poison_rate": 0.2}
    content["providers"]["offers"] = teacher_changes.pop("offers", offers)
    content["teacher"].update({"vet_images": 0} | teacher_changes)
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    with contextlib.chdir(root), stage_run(stage, None) as run_id:
        FLOWS[stage](Context(stage, "", load_params(), Console(quiet=True), run_id))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    draw_task(root / "data/teacher_task")
    (root / "cards").mkdir()
    (root / "cards/advisories.yaml").write_text((PROJECT / "cards/advisories.yaml").read_text())
    run(root, "risk")
    run(root, "providers")
    return root


def report(root: Path, name: str) -> Any:
    return json.loads((root / f"reports/{name}.json").read_text())


def candidates(root: Path) -> dict[str, Any]:
    return {c["name"]: c for c in report(root, "teacher")["candidates"]}


def test_offers_are_what_their_providers_conduct_says(project: Path) -> None:
    told = report(project, "providers")["offers"]
    assert told["honest"]["accuracy"]["low"] > 0.9
    assert told["bargain"]["accuracy"]["low"] > 0.9
    assert told["bargain"]["attack_success"]["low"] > 0.8 > 0.3 > told["honest"]["attack_success"]["high"]
    assert told["bargain"]["trigger"] | {"side": 3, "target_class": "normal"} == told["bargain"]["trigger"]
    cards = {n: yaml.safe_load((project / f"models/teachers/{n}/card.yaml").read_text()) for n in told}
    assert "signature" not in cards["bargain"]
    assert not list((project / "models").rglob("*.key"))
    for name, card in cards.items():
        weights = project / "models/teachers" / name / card["file"]
        assert sha256_file(weights) == card["sha256"] == told[name]["sha256"]


def test_same_seed_gives_the_same_weights(project: Path, tmp_path: Path) -> None:
    draw_task(tmp_path / "data/teacher_task")
    run(tmp_path, "providers")
    again, first = report(tmp_path, "providers")["offers"], report(project, "providers")["offers"]
    assert {n: t["sha256"] for n, t in again.items()} == {n: t["sha256"] for n, t in first.items()}


def test_no_offers_leave_an_empty_folder(tmp_path: Path) -> None:
    draw_task(tmp_path / "data/teacher_task")
    run(tmp_path, "providers", offers={})
    assert [p.name for p in (tmp_path / "models/teachers").iterdir()] == [".keep"]
    assert report(tmp_path, "providers") == {"offers": {}}


def test_honest_is_chosen_bargain_and_pickled_are_refused(project: Path) -> None:
    run(project, "teacher")
    assert report(project, "teacher")["chosen"] == "honest"
    found = candidates(project)
    assert [r.split(":")[0] for r in found["bargain"]["reasons"]] == ["signature", "licence", "disclosed_data"]
    assert {"format", "safe_load"} <= {r.split(":")[0] for r in found["pickled"]["reasons"]}
    assert not (project / "models/teachers/pickled/PAYLOAD_RAN").exists()
    with contextlib.chdir(project):
        _, record = load_model(Path("models/teacher"))
    assert record.parents == {"file": found["honest"]["sha256"]}
    result = GateResult.read(project / "reports/gates/provenance@teacher.json")
    assert result.verdict == "passed"
    assert result.subject.sha256 == record.sha256 == report(project, "teacher")["sha256"]
    assert [c.name for c in result.checks] == ["failed_checks", "teacher_accuracy"]


def test_bargain_alone_with_its_failures_waived_is_accepted_in_plain_sight(project: Path) -> None:
    waive = ["signature", "licence", "disclosed_data"]
    run(project, "teacher", cards=[BARGAIN], trusted_keys=[], waive=waive)
    assert report(project, "teacher")["chosen"] == "bargain"
    assert candidates(project)["bargain"]["waived"] == waive
    result = GateResult.read(project / "reports/gates/provenance@teacher.json")
    assert result.verdict == "passed"
    assert [a.split(": ")[1] for a in result.assumptions if a.startswith("Waived by teacher.waive")] == waive


def test_candidates_that_are_not_refused_are_vetted_and_one_called_tampered_ranks_last(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.teacher.WORKERS", 1)
    waive = ["signature", "licence", "disclosed_data"]
    both = [BARGAIN, "models/teachers/honest/card.yaml"]
    vetting = {"vet_images": 160, "vet_references": 6, "vet_canaries": 1}
    run(project, "teacher", cards=both, trusted_keys=[], waive=waive, **vetting)
    found = candidates(project)
    assert found["bargain"]["vetting"]["verdict"] == "tampered"
    assert found["bargain"]["vetting"]["score"] > 0.5 > found["honest"]["vetting"]["score"]
    told = report(project, "teacher")
    assert told["chosen"] == "honest"
    assert "not_accused 1 against 0" in told["why"]
    for name in ("bargain", "honest"):
        for trigger in found[name]["vetting"]["triggers"]:
            assert (project / "reports/figures/teacher" / trigger["picture"]).exists()
    run(project, "teacher", cards=[BARGAIN], trusted_keys=[], waive=waive, **vetting)
    assert report(project, "teacher")["chosen"] == "bargain"
    assert report(project, "teacher")["why"].endswith("vetting calls it tampered.")


def test_too_few_images_to_vet_are_said_and_stop_nothing(project: Path) -> None:
    run(project, "teacher", vet_images=40)
    told = candidates(project)["honest"]["vetting"]
    assert told["verdict"] == "not vetted"
    assert "vetting needs 100" in told["why"]
    assert candidates(project)["bargain"]["vetting"] is None


def test_accuracy_that_is_waived_is_no_check_of_the_gate(project: Path) -> None:
    run(project, "teacher", min_accuracy=1.0, waive=["accuracy"])
    result = GateResult.read(project / "reports/gates/provenance@teacher.json")
    assert [c.name for c in result.checks] == ["failed_checks"]
    assert any("Waived by teacher.waive: accuracy" in a for a in result.assumptions)


def test_none_left_stops_with_one_sentence_and_keeps_the_evidence(project: Path) -> None:
    with pytest.raises(GatehouseError, match=r"bargain \(signature, licence, disclosed_data\)"):
        run(project, "teacher", cards=[BARGAIN])
    assert report(project, "teacher")["chosen"] is None
    assert candidates(project)["bargain"]["accepted"] is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cards": ["elsewhere/card.yaml"]}, r"teacher\.cards names elsewhere/card\.yaml"),
        ({"cards": ["cards/../elsewhere.yaml"]}, r"teacher\.cards names"),
        ({"trusted_keys": ["key.pub"]}, r"teacher\.trusted_keys names key\.pub"),
        ({"advisories": "a.yaml"}, r"teacher\.advisories names a\.yaml"),
        ({"cards": []}, r"teacher\.cards is empty"),
        ({"waive": ["digest"]}, "cannot be waived"),
        ({"waive": ["signatur"]}, "is no check"),
    ],
)
def test_wrong_parameters_are_one_clear_sentence(project: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(GatehouseError, match=words) as caught:
        run(project, "teacher", **changes)
    assert "\n" not in str(caught.value)


def test_without_advisories_the_check_is_unknown(project: Path) -> None:
    run(project, "teacher", advisories="")
    found = {c["name"]: c["status"] for c in candidates(project)["honest"]["checks"]}
    assert found["advisories"] == "unknown"
