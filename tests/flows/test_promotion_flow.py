"""The promotion stage with a real registry in a temporary folder: promote, promote again, refuse, and what is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from rich.console import Console

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tasks" / "promotion"))

from promotion_case import CLASSES, TEACHER, Case, make_case, result  # noqa: E402

from flows import promotion, promotion_commands, registry  # noqa: E402
from flows.champion import champion_standing  # noqa: E402
from flows.stage import Context  # noqa: E402
from flows.tracking import stage_run  # noqa: E402
from tasks.data.dataset import load_dataset  # noqa: E402
from tasks.errors import GatehouseError  # noqa: E402
from tasks.files import read_json, write_json  # noqa: E402
from tasks.models.architectures import Classifier, ModelSpec, build  # noqa: E402
from tasks.models.checkpoints import load_model, save_model  # noqa: E402
from tasks.models.inference import logits  # noqa: E402
from tasks.params import load_params  # noqa: E402
from tasks.promotion.evidence import verify  # noqa: E402
from tasks.promotion.ledger import digest_of, read  # noqa: E402
from tasks.promotion.trust import load_trust, only  # noqa: E402

NAME = "gatehouse-student"
torch.set_num_threads(1)


def write_data(folder: Path, n: int = 240) -> str:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    split = np.array(["train", "val", "test"])[np.arange(n) // 3 % 3]
    manifest = pd.DataFrame({"label": [CLASSES[i % 3] for i in range(n)], "split": split})
    manifest.to_parquet(folder / "manifest.parquet")
    np.save(folder / "images.npy", rng.integers(0, 255, (n, 1, 16, 16), dtype=np.uint8), allow_pickle=False)
    write_json(folder / "classes.json", list(CLASSES))
    return load_dataset(folder).sha256


class House:
    """A project folder in which only the promotion stage runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["promotion"] |= {"signing_key": "keys/promotion.key", "accuracy_margin": 0.02}
        (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        self.data = write_data(root / "data" / "student_task")

    def case(self, seed: int, *, bad_at: str = "") -> Case:
        """A candidate of this seed whose gates pass, or all but one."""
        shutil.rmtree(self.root / "models", ignore_errors=True)
        case = make_case(self.root, seed=seed)
        spec = ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=16)
        parents = {"teacher": TEACHER, "student_task": self.data}
        case.record = save_model(case.model, self.guesser(spec, seed), spec, parents=parents)
        for gate in case.policy.required():
            subject = {"data": self.data, "provenance": TEACHER}.get(gate, case.record.sha256)
            own = result(case.policy, gate, subject)
            if gate == bad_at:
                own = own.model_copy(
                    update={"checks": (own.checks[0].model_copy(update={"observed": 0.9, "ci": (0.8, 1.0)}),)}
                )
            case.put(own)
        return case

    def guesser(self, spec: ModelSpec, seed: int) -> Classifier:
        """An untrained model whose answers vary with the image: its head's bias takes the mean logits away."""
        model = build(spec, seed=seed)
        images, _ = load_dataset(self.root / "data" / "student_task").part("test")
        with torch.no_grad():
            model.head.bias -= logits(model, images).mean(0)
        return model

    def promote(self) -> dict:
        with stage_run("promotion", None) as run_id:
            promotion.promotion(Context("promotion", "", load_params(), Console(quiet=True), run_id))
        return read_json(self.root / "reports" / "promotion.json")

    def champion(self) -> str:
        return registry.champion_folder(NAME)[1]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    before = Path.cwd()
    saved = {k: os.environ.pop(k, None) for k in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")}
    os.chdir(root)
    try:
        yield House(root)
    finally:
        os.chdir(before)
        os.environ.update({k: v for k, v in saved.items() if v is not None})


def test_a_life_in_the_registry(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    """One story, in order, because each step builds on the registry that the one before it left."""
    # A candidate that fails a gate before there was any champion: refused, not registered, no alias.
    house.case(0, bad_at="backdoor")
    refused = house.promote()
    assert (refused["decision"], refused["version"], refused["alias"]) == ("refused", None, None)
    assert {(r["gate"], r["check"]) for r in refused["reasons"]} >= {("backdoor", "trigger_control")}
    assert all(r["sentence"] and r["next_step"] for r in refused["reasons"])
    assert not registry.has_champion(NAME)
    assert registry.versions_of(NAME, refused["sha256"]) == []
    with pytest.raises(GatehouseError, match="has no champion"):
        registry.champion_folder(NAME)
    with pytest.raises(GatehouseError, match="record of a refusal"):
        verify(
            house.root / "models/student", house.root / "reports/evidence", trust=only(house.case(0).key.public_key())
        )

    # The same candidate with gates passed: champion, and its evidence verifies with the operator's key.
    case = house.case(0)
    first = house.promote()
    assert (first["decision"], first["version"], first["alias"]) == ("promoted", "1", "champion")
    folder, version = registry.champion_folder(NAME)
    assert version == "1"
    key = case.key.public_key()
    proven = verify(folder, trust=only(key), policy_sha256=case.policy.sha256)
    assert proven.sha256 == first["sha256"] == case.record.sha256
    assert champion_standing(load_params().promotion, first["sha256"]) == ""
    assert not no_pickle(folder.parents[1])
    assert {"bom.cdx.json", "threats.json"} <= set(proven.predicate.files)
    bom = (folder / "evidence" / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None
    assert {c["name"] for c in json.loads(bom)["components"]} >= {"teacher", "student_task", "torch"}
    assert {t["tested"] for t in read_json(folder / "evidence" / "threats.json")} == {"passed", "no gate"}
    with np.load(folder / "evidence" / "reference.npz", allow_pickle=False) as reference:
        assert set(reference.files) >= {"mean", "sd", "score", "label"}
        assert len(reference["mean"]) == 81  # the validation split
    assert promotion_commands.run(["verify"]) == 0
    assert "proven" in capsys.readouterr().out
    assert promotion_commands.run(["verify", "models/student"]) == 0

    # Promoted again: the same version, and nothing new in the registry.
    again = house.promote()
    assert (again["decision"], again["version"]) == ("promoted", "1")
    assert registry.versions_of(NAME, first["sha256"]) == ["1"]

    # MLflow itself loads the version, from the signed weights, and only while they are proven.
    import mlflow

    images = np.random.default_rng(1).random((2, 1, 16, 16), np.float32)
    scores = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(images)
    assert scores.shape == (2, 3)
    assert np.allclose(scores, load_model(case.model)[0](torch.from_numpy(images)).softmax(1).detach().numpy())

    # Another candidate that is no worse (untrained, so both guess; the margin is wide): a new version.
    widen(house, 0.5)
    house.case(1)
    second = house.promote()
    assert (second["decision"], second["version"], house.champion()) == ("promoted", "2", "2")
    assert second["comparison"]["counts"]
    assert second["comparison"]["check"]["n"] == 78

    # A worse one: refused although its gates passed, and the champion stays. The difference is measured, not assumed.
    widen(house, 0.0)
    house.case(2)
    third = house.promote()
    assert (third["decision"], house.champion()) == ("refused", "2")
    assert [r["gate"] for r in third["reasons"]] == ["champion"]

    # The alias moved by hand, and weights swapped under it: standing says so, the unproven champion does not count.
    registry.crown(NAME, "1")
    assert "somebody moved the alias" in champion_standing(load_params().promotion, second["sha256"])
    shutil.copy(house.root / "models/student/model.safetensors", folder / "model.safetensors")
    assert "not the file that was signed" in champion_standing(load_params().promotion, first["sha256"])
    assert promotion_commands.run(["verify"]) == 1
    with pytest.raises(GatehouseError, match="not the file that was signed"):
        mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    house.case(1)
    repaired = house.promote()
    assert (repaired["decision"], repaired["version"], house.champion()) == ("promoted", "2", "2")
    assert "does not count" in repaired["comparison"]["why"]

    # Every decision is in the chain, refusals too.
    log = house.root / ".gatehouse" / "decisions.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["decision"] for e in entries] == [
        "refused",
        "promoted",
        "promoted",
        "promoted",
        "refused",
        "promoted",
    ]
    chain = read(log, load_trust(load_params().promotion.signing_key))
    assert digest_of(chain[-1]) == repaired["ledger_head"]
    assert (house.root / "reports" / "dossier.html").stat().st_size > 10_000


def widen(house: House, margin: float) -> None:
    path = house.root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["promotion"]["accuracy_margin"] = margin
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


def no_pickle(folder: Path) -> list[Path]:
    """Files below `folder` that are pickles, by their first bytes or inside a zip archive."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        if path.read_bytes()[:1] == b"\x80" or path.suffix in (".pkl", ".pth", ".pt"):
            found.append(path)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found += [path for n in archive.namelist() if n.endswith(".pkl") or archive.read(n)[:1] == b"\x80"]
    return found


def test_what_the_run_writes_is_no_change_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert promotion._revision() == {}
    commit = ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one")
    for words in (("init", "-q"), commit):
        subprocess.run(["git", *words], check=True)
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    assert promotion._revision()["state"] == "clean"
    (tmp_path / "other.py").write_text("")
    assert promotion._revision()["state"] == "with local changes"
