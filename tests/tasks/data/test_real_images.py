"""The real chest X-rays, where they are at hand: what is known of them is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_images import data_params

from tasks.data.build import Reading, read
from tasks.data.cleaning import clean
from tasks.data.prepare import overlap
from tasks.data.sources import Record, open_source

ROOT = Path(__file__).parents[4] / "shared/data"
TEACHER, STUDENT = "chest_xray", "COVID-19_Radiography_Dataset"
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (ROOT / STUDENT).is_dir(), reason=f"no chest X-rays in {ROOT}"),
]
PARAMS = data_params(
    source="folder",
    root=str(ROOT),
    teacher_task={"path": TEACHER, "images": 0},
    student_task={"path": STUDENT, "images": 0},
)


def records(task: str) -> list[Record]:
    return open_source(PARAMS, getattr(PARAMS, task), seed=0)


def some(found: list[Record]) -> Reading:
    return read(found, PARAMS, remedies=("none",), threads=1)


def test_every_image_is_found_with_its_class_split_and_patient() -> None:
    teacher, student = records("teacher_task"), records("student_task")
    assert len(teacher) == 5840
    assert sum(r.split == "test" for r in teacher) == 624
    assert all(r.group for r in teacher)
    assert [sum(r.label == c for r in student) for c in ("covid", "normal", "viral_pneumonia")] == [3616, 10192, 1345]


def test_the_teachers_training_data_hold_the_viral_images_exactly_and_normal_ones_as_near_copies() -> None:
    student = records("student_task")
    viral = [r for r in student if r.label == "viral_pneumonia"][:150]
    normal = [r for r in student if r.path.endswith(tuple(f"/Normal-{i}.jpeg" for i in range(1, 400)))]
    covid = [r for r in student if r.label == "covid"][:150]
    teacher = [r for r in records("teacher_task") if "_virus_" in r.path or r.label == "normal"]
    ours, theirs = some([*viral, *normal, *covid]), some(teacher)
    found = overlap(ours, theirs, near_duplicate_bits=3)
    assert found.by_class()["viral_pneumonia"] == {"images": 150, "exact": 150, "near": 0}
    assert found.by_class()["covid"] == {"images": 150, "exact": 0, "near": 0}
    assert found.by_class()["normal"]["exact"] == 0


def test_a_patients_number_counts_within_its_germ_only() -> None:
    """Why `person7_bacteria` and `person7_virus` are two patients: by number alone 170 "patients" would be in both
    declared splits, and never with the same germ."""
    teacher = [r for r in records("teacher_task") if r.group.startswith("person")]
    both = {r.group for r in teacher if r.split == "train"} & {r.group for r in teacher if r.split == "test"}
    assert not both
    numbers = [{r.group.split("_")[0] for r in teacher if r.split == s} for s in ("train", "test")]
    assert len(numbers[0] & numbers[1]) == 170


def test_the_declared_splits_hold_and_copies_are_dropped() -> None:
    part = [r for r in records("teacher_task") if r.label == "normal"]
    reading = some(part)
    found = clean(reading, near_duplicate_bits=3)
    assert {q.reason for q in found.quarantined} == {"exact duplicate"}
    assert len(found.quarantined) == 4
    assert int(np.sum(found.declared == "test")) == 231
