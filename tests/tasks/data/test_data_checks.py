from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_images import data_params, picture, record

from tasks.data.build import read
from tasks.data.checks import data_checks, remember, source_status
from tasks.data.dataset import load_dataset
from tasks.data.figures import class_histogram, contact_sheet, shortcut_bars
from tasks.data.prepare import Prepared, leaks, overlap, prepare_task, save
from tasks.data.shortcut import Told
from tasks.data.sources import Record, open_source
from tasks.errors import GatehouseError
from tasks.gate import Check
from tasks.risk import THRESHOLDS

PARAMS = data_params()


def phantom(task: str) -> Prepared:
    records = open_source(PARAMS, getattr(PARAMS, task), seed=7)
    return prepare_task(read(records, PARAMS), PARAMS, seed=7)


@pytest.fixture(scope="module")
def tasks() -> tuple[Prepared, Prepared]:
    return phantom("teacher_task"), phantom("student_task")


def checks_of(tasks: tuple[Prepared, Prepared], **changes: object) -> dict[str, Check]:
    teacher, student = tasks
    told = Told(pixels=9, chance=1 / 3, balanced_accuracy=0.35, ci=(0.3, 0.4), n=12)
    arguments: dict[str, object] = {
        "expectations": [{"passed": True}] * 5,
        "leaked": 0,
        "overlap": overlap(student.reading, teacher.reading, near_duplicate_bits=3),
        "sources": ["unchanged", "first seen"],
        "told": {"border": told, "corners": told},
        "threshold": lambda name: THRESHOLDS[f"data.{name}"][0],
    }
    return {c.name: c for c in data_checks(teacher, student, **{**arguments, **changes})}  # type: ignore[arg-type]


def test_the_phantoms_flaws_are_quarantined_each_for_its_reason(tasks: tuple[Prepared, Prepared]) -> None:
    teacher, student = tasks
    assert not teacher.cleaned.quarantined
    found = {q.path.split("/")[-1]: q.reason for q in student.cleaned.quarantined}
    copied = found.pop(next(k for k in found if found[k] == "content under two labels" and "flaw" not in k))
    assert copied == "content under two labels"
    assert found == {
        "flaw_cut_file": "unreadable",
        "flaw_blank": "blank",
        "flaw_copy": "exact duplicate",
        "flaw_copy_under_another_label": "content under two labels",
    }
    assert len(student.cleaned.near_pairs) >= 1  # the brighter copy stays, beside its original


def test_what_is_saved_is_what_is_loaded_and_the_same_again(tmp_path: Path, tasks: tuple[Prepared, Prepared]) -> None:
    student = tasks[1]
    save(student, tmp_path / "a")
    loaded = load_dataset(tmp_path / "a")
    assert loaded.classes == ("covid", "normal", "viral_pneumonia")
    assert (loaded.images == student.images).all()
    assert (loaded.labels == student.labels).all()
    assert loaded.images.shape[1:] == (1, 32, 32)
    assert set(loaded.split) == {"train", "val", "test"}
    save(phantom("student_task"), tmp_path / "a")  # over what is there
    save(student, tmp_path / "b")
    for name in ("manifest.parquet", "images.npy", "classes.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_nothing_leaks_and_planted_leaks_are_counted(tasks: tuple[Prepared, Prepared]) -> None:
    student = tasks[1]
    assert leaks(student, near_duplicate_bits=3) == {"pictures": 0, "near_copies": 0, "groups": 0}
    torn = student.manifest.copy()
    groups = torn["group"].value_counts()
    rows = torn.index[torn["group"] == groups[groups > 1].index[0]]
    torn.loc[rows[0], "split"] = "test"
    torn.loc[rows[1:], "split"] = "train"
    i, j = student.cleaned.near_pairs[0]
    for row, name in ((i, "train"), (j, "test")):
        torn.loc[np.flatnonzero(student.cleaned.rows == row), "split"] = name
    broken = Prepared(student.reading, student.cleaned, student.classes, torn, student.images)
    found = leaks(broken, near_duplicate_bits=3)
    assert found["groups"] >= 1
    assert found["near_copies"] >= 1


def test_overlap_tells_exact_from_near_and_spares_the_declared_test_split(tasks: tuple[Prepared, Prepared]) -> None:
    teacher, student = tasks
    found = overlap(student.reading, teacher.reading, near_duplicate_bits=3)
    assert int(found.exact.sum()) == 2
    assert sum(c["exact"] for c in found.by_class().values()) == 2
    a, b = picture(1), picture(2)
    brighter = np.clip(b * 0.9 + 15, 0, 255).astype(np.uint8)
    theirs = read(
        [record("a", "x", a, split="train"), record("b", "x", b), record("c", "x", picture(3), split="test")], PARAMS
    )
    ours = read([record("0", "k", a), record("1", "k", brighter), record("2", "l", picture(3))], PARAMS)
    found = overlap(ours, theirs, near_duplicate_bits=3)
    assert found.exact.tolist() == [True, False, False]
    assert found.near.tolist() == [False, True, False]
    assert found.by_class()["k"] == {"images": 2, "exact": 1, "near": 1}


def test_every_check_has_a_threshold_and_passes_on_the_phantom(tasks: tuple[Prepared, Prepared]) -> None:
    checks = checks_of(tasks)
    assert {f"data.{name}" for name in checks} == {name for name in THRESHOLDS if name.startswith("data.")}
    # With 60 images two flaws are a large share: the intervals are wide, the figures are not.
    few = {"unreadable_share", "conflicting_label_share", "quarantined_share"}
    assert {n for n, c in checks.items() if c.status != "passed"} <= few
    assert all(c.ci is not None and c.ci[0] <= c.observed <= c.ci[1] for c in checks.values())


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("expectations_failed", {"expectations": [{"passed": True}, {"passed": False}]}),
        ("split_leaks", {"leaked": 1}),
        ("source_changes", {"sources": ["unchanged", "changed"]}),
        ("source_changes", {"sources": ["undeclared", "undeclared"]}),
        (
            "shortcut_balanced_accuracy_gain",
            {
                "told": {
                    "border": Told(pixels=9, chance=0.5, balanced_accuracy=0.5, ci=(0.4, 0.6), n=50),
                    "corners": Told(pixels=9, chance=0.5, balanced_accuracy=0.9, ci=(0.85, 0.95), n=50),
                }
            },
        ),
    ],
)
def test_each_check_fails_on_what_it_is_for(tasks: tuple[Prepared, Prepared], check: str, changes: object) -> None:
    sound, broken = checks_of(tasks), checks_of(tasks, **changes)  # type: ignore[arg-type]
    assert sound[check].status == "passed"
    assert broken[check].status == "failed"
    assert {n for n in sound if sound[n].status != broken[n].status} == {check}


def test_no_expectations_are_inconclusive(tasks: tuple[Prepared, Prepared]) -> None:
    assert checks_of(tasks, expectations=[])["expectations_failed"].status == "inconclusive"


def test_shares_fail_when_most_is_broken() -> None:
    good = [record(f"{c}{i}", c, picture(100 * k + i)) for k, c in enumerate("ab") for i in range(20)]
    bad = [record(f"bad{i}", "a", b"no image") for i in range(20)]
    rare = [record(f"c{i}", "c", picture(500 + i)) for i in range(10)]
    made = prepare_task(read([*good, *bad, *rare], PARAMS), PARAMS, seed=0)
    checks = checks_of((made, made))
    assert checks["unreadable_share"].status == "failed"
    assert checks["unreadable_share"].observed == pytest.approx(20 / 70)
    assert checks["quarantined_share"].status == "failed"
    assert checks["smallest_class_share_minimum"].observed == pytest.approx(0.2)
    assert checks["teacher_overlap_share"].status == "failed"  # the student's data are the teacher's


def test_a_source_is_remembered_and_a_change_is_not_forgiven_by_running_again() -> None:
    assert source_status({}, "k", "declared", "d1") == "first seen"
    memory = remember({}, "k", "d1", 10)
    assert source_status(memory, "k", "declared", "d1") == "unchanged"
    assert source_status(memory, "k", "declared", "d2") == "changed"
    assert source_status(remember(memory, "k", "d2", 10), "k", "declared", "d2") == "changed"
    assert source_status(memory, "k", " ", "d1") == "undeclared"


def test_a_sources_digest_changes_with_any_record() -> None:
    rows = [("a", "x", 1), ("b", "y", 2)]

    def digest(rows: list[tuple[str, str, int]]) -> str:
        return read([record(p, c, picture(s)) for p, c, s in rows], PARAMS).digest()

    base = digest(rows)
    assert base == digest(rows[::-1])
    for changed in (
        [*rows, ("c", "x", 3)],
        [("a", "y", 1), rows[1]],
        [("a", "x", 9), rows[1]],
        [("z", "x", 1), rows[1]],
    ):
        assert digest(changed) != base


def test_too_few_or_no_usable_images_of_a_class_are_one_sentence() -> None:
    plenty = [record(f"a{i}", "a", picture(i)) for i in range(30)]

    def prepare(records: list[Record]) -> Prepared:
        return prepare_task(read(records, PARAMS), PARAMS, seed=0)

    with pytest.raises(GatehouseError, match="Class 'b' has 3 usable images; at least 10"):
        prepare([*plenty, *(record(f"b{i}", "b", picture(50 + i)) for i in range(3))])
    with pytest.raises(GatehouseError, match="No image of class 'b' is usable"):
        prepare([*plenty, *(record(f"b{i}", "b", b"broken") for i in range(12))])


def test_figures_are_small_pngs(tmp_path: Path, tasks: tuple[Prepared, Prepared]) -> None:
    told = Told(pixels=9, chance=1 / 3, balanced_accuracy=0.35, ci=(0.3, 0.4), n=12)
    regions = {"border": told, "corners": told, "coarse": told}
    contact_sheet(tasks[1], tmp_path / "contact.png", seed=0, title="student task")
    class_histogram(tasks[1], tmp_path / "classes.png", title="student task")
    shortcut_bars({"none": regions, "crop": regions}, tmp_path / "bars.png", threshold=0.5, chosen="none")
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 2_000 < len(content) < 150_000
    assert len(list(tmp_path.iterdir())) == 3
