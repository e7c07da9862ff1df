"""`python -m flows.teacher vet` end to end on small drawings, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from flows import vet, vetting
from tasks.backdoor.attacks.badnets import poison
from tasks.backdoor.drill import teacher_training
from tasks.backdoor.triggers import square
from tasks.files import sha256_bytes
from tasks.models.architectures import ModelSpec, build
from tasks.models.checkpoints import to_bytes
from tasks.models.training import fit
from tasks.teachers.card import Card, Normalisation, ProviderCard, TrainingDataCard
from tasks.teachers.offers import write_offer

SIDE = 32
CLASSES = ("Rows", "Columns")


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy waves along rows or along columns, of random phase, as uint8 (n, 1, 32, 32)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    axes = np.stack(np.mgrid[0:SIDE, 0:SIDE]).astype(float)
    wave = np.sin(axes[labels] * 2 * np.pi / 8 + rng.uniform(0, 2 * np.pi, (n, 1, 1)))
    image = 0.5 + 0.2 * wave + rng.normal(0, 0.12, (n, SIDE, SIDE))
    return (image.clip(0, 1) * 255).astype(np.uint8)[:, None], labels.astype(np.int64)


@pytest.fixture(scope="module")
def offer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backdoored teacher with its card."""
    folder = tmp_path_factory.mktemp("offers") / "teacher"
    spec = ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=SIDE)
    model = build(spec, seed=0)
    trigger = square(side=3, channels=1, image_size=SIDE)
    data = poison(*draw(360, 1), trigger=trigger, target_class=1, poison_rate=0.1, seed=2)
    fit(model, data, draw(100, 3), teacher_training(6, 32), policy="all", seed=0)
    weights = to_bytes(model)
    card = Card(
        name="teacher", architecture="simple_cnn", file="weights.safetensors", sha256=sha256_bytes(weights),
        format="safetensors", provider=ProviderCard(name="somebody"), licence="MIT", public=False,
        training_data=TrainingDataCard(name="not disclosed", disclosed=False), classes=CLASSES, channels=1,
        image_size=SIDE, normalisation=Normalisation(mean=spec.mean, sd=spec.sd), advised_freeze="none",
    )  # fmt: skip
    write_offer(folder, card, weights, signed=False)
    return folder / "card.yaml"


def write_images(root: Path, n: int, names: tuple[str, ...] = ("rows", "columns")) -> Path:
    images, labels = draw(n, 7)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label < len(names):
            folder = root / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(folder / f"{i}.png")
    return root


def test_vet_judges_writes_and_takes_its_references_from_the_cache(
    offer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vetting, "CACHE", tmp_path / "cache")
    data, out = write_images(tmp_path / "clean", 200), tmp_path / "report" / "vet.json"

    def run(seed: int = 3) -> dict:
        return vet.vet(
            offer, data, out, images=160, seed=seed, clean=4, canaries=1, workers=1, console=Console(quiet=True)
        )

    report = run()
    assert report == json.loads(out.read_text())
    assert report["verdict"] in ("tampered", "inconclusive")  # four references set no threshold: nobody is accused
    assert report["threshold"] is None
    assert report["verdict"] == "inconclusive"
    assert 0.5 < report["score"] <= 1
    assert report["images"]["used"] == 160
    assert report["images"]["by_class"] == {"Rows": 80, "Columns": 80}
    assert (report["most_telling"]["family"], report["most_telling"]["class"]) == ("patch", "Columns")
    best = next(t for t in report["triggers"] if t["kind"] == "patch" and t["class"] == "Columns")
    assert best["control"] > 0.8
    assert (out.parent / report["scores_picture"]).exists()
    for trigger in report["triggers"]:
        with Image.open(out.parent / trigger["picture"]) as picture:
            assert picture.format == "PNG"
    assert [c["attack"] for c in report["references"]["canaries"]] == ["badnets"]
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("model.safetensors")}
    assert len(kept) == 5
    again = run()
    assert {k: v for k, v in again.items() if k != "minutes"} == {k: v for k, v in report.items() if k != "minutes"}
    assert kept == {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("model.safetensors")}


def told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        vet.main(argv)
    assert stop.value.code == 1
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("names", "n", "sentence"),
    [
        (("rows",), 300, "has no images of the teacher's class 'Columns'"),
        (("rows", "columns"), 60, "vetting needs 100"),
        (("rows", "columns", "rings"), 300, ""),
    ],
)
def test_a_set_that_does_not_fit_is_refused_in_one_sentence(
    offer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], n: int, sentence: str
) -> None:
    data = write_images(tmp_path / "clean", n, names)
    if not sentence:
        (data / "rings").mkdir()
        Image.fromarray(draw(1, 0)[0][0, 0]).save(data / "rings" / "0.png")
        sentence = "'rings', which is no class of the teacher"
    out = tmp_path / "vet.json"
    assert sentence in told(["--card", str(offer), "--data", str(data), "--out", str(out)], capsys)
    assert not out.exists()


def test_bad_cards_and_files_are_refused(offer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(card: Path) -> str:
        return told(["--card", str(card), "--data", str(tmp_path), "--out", str(tmp_path / "o.json")], capsys)

    assert "does not exist" in refused(tmp_path / "none.yaml")
    content = yaml.safe_load(offer.read_text())
    for change, sentence in (
        ({"architecture": "vgg"}, "architecture"),
        ({"sha256": "0" * 64}, "it is another file"),
        ({"file": "gone.safetensors"}, "does not exist; put the file there"),
        ({"format": "pth"}, "not a PyTorch"),
    ):
        changed = tmp_path / "card.yaml"
        changed.write_text(yaml.safe_dump(content | change))
        (tmp_path / "weights.safetensors").write_bytes((offer.parent / "weights.safetensors").read_bytes())
        assert sentence.lower() in refused(changed).lower(), change
    pickled = b"\x80\x02cio\nopen\n(V" + str(tmp_path / "RAN").encode() + b"\nVw\ntR."
    (tmp_path / "weights.pkl").write_bytes(pickled)
    changed.write_text(
        yaml.safe_dump(content | {"file": "weights.pkl", "format": "pickle", "sha256": sha256_bytes(pickled)})
    )
    refused(changed)
    assert not (tmp_path / "RAN").exists()


def test_the_subcommand_is_reached_through_the_teacher_module(project: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "flows.teacher", "vet", "--help"], cwd=project, capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert "--card" in shown.stdout
    assert "tampered" in shown.stdout
