"""The zoo's flow on a tiny phantom: a row a teacher, teachers kept, a changed recipe measured anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows import study_cells, zoo, zoo_cells, zoo_detection
from flows.zoo import main
from tasks.backdoor.zoo import plan
from tasks.files import write_json
from tasks.teachers.card import load_card

TINY = """
data:
  image_size: 32
  teacher_task: {path: pneumonia, images: 240}
  student_task: {path: covid, images: 500}
backdoor: {search_images: 30, search_steps: 2, restarts: 1, mitigation: []}
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    shutil.copy(project / "params.yaml", folder)
    (folder / "profiles").mkdir()
    (folder / "profiles/tiny.yaml").write_text(TINY)
    (folder / "tasks/data").mkdir(parents=True)
    shutil.copy(project / "tasks/data/phantom.py", folder / "tasks/data")
    return folder


@pytest.fixture(autouse=True)
def _small(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    study_cells.study_data.cache_clear()
    monkeypatch.setitem(plan.SIZES, "simple_cnn", plan.Sizes(60, 1, 60, 1, 60))
    monkeypatch.setitem(plan.BACKDOORED, "simple_cnn", plan.BACKDOORED["simple_cnn"][:1])


def test_every_teacher_gets_a_row_and_is_trained_once(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--profile", "tiny", "--architecture", "simple_cnn"]
    main([*asked, "--only", "teachers"])
    assert not zoo.MITIGATION.exists()
    kept = {p: p.stat().st_mtime_ns for p in Path(".gatehouse/zoo/teachers").glob("*/*")}
    assert len({p.parent for p in kept}) == 2
    main(asked)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    table = json.loads(zoo.MITIGATION.read_text())
    assert [(r["attack"], r["side"]) for r in table["rows"]] == [("badnets", 20), ("clean", 0)]
    backdoored, clean = table["rows"]
    assert set(backdoored["before"]) == {"all", "frozen"}
    assert set(clean["before"]) == {"all"}
    for row in table["rows"]:
        assert row["verdict"] in ("promoted", "refused")
        assert row["seconds"] > 0
        assert -1 <= row["after"]["control"]["value"] <= 1
    capsys.readouterr()


def test_a_trigger_that_wakes_is_tried_on_the_student_of_a_clean_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "TRIGGER", -2.0)  # whatever it does, it woke
    main(["--profile", "tiny", "--architecture", "simple_cnn"])
    backdoored, clean = json.loads(zoo.MITIGATION.read_text())["rows"]
    found, own = backdoored["reactivated"]["clean_teacher"], clean["after"]["control"]
    assert found["relearned"] == pytest.approx(found["after"]["value"] - found["before"]["value"], abs=2e-6)
    # The clean row's own student under its own trigger, which is the same white corner.
    assert found["before"] == {k: own[k] for k in found["before"]} | {"worst_class": found["before"]["worst_class"]}
    assert "clean_teacher" not in clean["reactivated"]


def test_students_of_a_backdoored_and_of_clean_teachers_vote() -> None:
    main(["--profile", "tiny", "--architecture", "simple_cnn", "--only", "ensembles"])
    (row,) = json.loads(zoo.ENSEMBLES.read_text())["rows"]
    assert (row["attack"], row["side"]) == ("badnets", 20)
    assert row["alone"]["members"] == 1
    assert row["majority"]["members"] == row["unanimous"]["members"] == 3
    assert row["unanimous"]["refusal_rate"] >= row["majority"]["refusal_rate"] >= row["alone"]["refusal_rate"] == 0


@pytest.fixture
def vetted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """`vet` without its work: how many images each call was given of each class."""
    calls: list[dict[str, int]] = []

    def judged(card: Path, data: Path, out: Path, **_: object) -> None:
        assert load_card(card).card.classes == ("normal", "pneumonia")
        calls.append({folder.name: len(list(folder.glob("*.png"))) for folder in data.iterdir()})
        report = {
            "score": 0.9 - 0.5 * (len(calls) > 1), "verdict": "no sign", "minutes": 0.1,
            "power": {}, "false_alarms": {},
            "detectors": {"one": {"deviation": float(len(calls))}}, "images": {"used": 36},
            "references": {"clean": [1, 2, 3], "canaries": [1]},
        }  # fmt: skip
        write_json(out, report)

    monkeypatch.setattr(zoo_detection.vet, "vet", judged)
    return calls


def test_every_teacher_is_vetted_once_by_its_card_and_clean_images(vetted: list[dict[str, int]]) -> None:
    for _ in range(2):
        main(["--profile", "tiny", "--architecture", "simple_cnn", "--only", "detect", "--draw", "1"])
    assert len(vetted) == 2
    assert vetted[0] == vetted[1]
    assert set(vetted[0]) == {"normal", "pneumonia"}
    table = json.loads(zoo.ZOO.read_text())
    assert [r["backdoored"] for r in table["rows"]] == [True, False]
    assert table["summary"]["vet"]["auc"]["value"] == 1.0
    assert table["calibrations"] == {
        "simple_cnn": {"clean": 3, "canaries": 1, "images": 36, "power": {}, "false_alarms": {}}
    }
    assert not zoo.DEVELOPMENT.exists()
    assert table["command"].endswith("--draw 1 --only detect")


def test_marks_that_nothing_was_chosen_on_go_through_vet_and_the_gate(
    vetted: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "UNNAMED", (("sinusoid", 0.1), ("marker", 0.2)))
    main(["--profile", "tiny", "--only", "unnamed", "--draw", "3"])
    assert len(vetted) == 3
    table = json.loads(zoo.UNNAMED.read_text())
    planted = [(r["attack"], r["poison_rate"]) for r in table["rows"]]
    assert planted == [("clean", 0), ("sinusoid", 0.1), ("marker", 0.2)]
    for row in table["rows"][1:]:
        assert row["verdict"] in ("promoted", "refused")
        assert -1 <= row["teacher"]["control"]["value"] <= 1
        assert set(row["clean_teacher"]) == {"before", "after"}
        assert row["vet"]["verdict"] == "no sign"
    assert table["command"].endswith("--draw 3 --only unnamed")


@pytest.mark.parametrize("only", [["--only", "teachers"], []])
def test_a_teacher_that_could_not_be_measured_fails_the_run_in_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, only: list[str]
) -> None:
    def broken(_: object) -> dict[str, object]:
        raise ValueError("no such trigger")

    monkeypatch.setitem(zoo_cells.ACTS, zoo_cells.Taught, broken)
    with pytest.raises(SystemExit) as stop:
        main(["--profile", "tiny", "--architecture", "simple_cnn", "--draw", "2", *only])
    assert stop.value.code == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "no such trigger" in told
    assert "2 cells were not measured; run again to try them alone" in told


def test_a_mistake_at_the_keyboard_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--profile", "tiny", "--workers", "0"])
    assert "--workers must be at least 1" in capsys.readouterr().out
