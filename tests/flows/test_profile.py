"""Profiles change params.yaml and take their changes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from flows.profile import apply_profile
from tasks.errors import GatehouseError


@pytest.fixture
def workspace(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(project / "params.yaml", tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/small.yaml").write_text("data:\n  image_size: 32\nstudent: {epochs: 2}\n")
    (tmp_path / "profiles/real.yaml").write_text("data: {source: folder}\n")
    (tmp_path / "profiles/wrong.yaml").write_text("student: {epochs: many}\n")
    (tmp_path / "profiles/unknown_key.yaml").write_text("student: {epoch: 2}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(workspace: Path) -> dict:
    return yaml.safe_load((workspace / "params.yaml").read_text())


def test_a_profile_is_laid_over_and_taken_back(workspace: Path) -> None:
    before = (workspace / "params.yaml").read_text()
    assert apply_profile("small", None) == ["data.image_size", "student.epochs"]
    assert values(workspace)["data"]["image_size"] == 32
    apply_profile("small", None)
    apply_profile("default", None)
    assert (workspace / "params.yaml").read_text() == before


def test_comments_survive(workspace: Path) -> None:
    apply_profile("small", None)
    assert "# A.1 impact" in (workspace / "params.yaml").read_text()


def test_what_the_user_changed_meanwhile_stays(workspace: Path) -> None:
    apply_profile("small", None)
    text = (workspace / "params.yaml").read_text().replace("image_size: 32", "image_size: 48")
    (workspace / "params.yaml").write_text(text)
    apply_profile("default", None)
    assert values(workspace)["data"]["image_size"] == 48
    assert values(workspace)["student"]["epochs"] != 2


def test_an_unchanged_file_is_not_written(workspace: Path) -> None:
    before = (workspace / "params.yaml").stat().st_mtime_ns
    apply_profile("default", None)
    assert (workspace / "params.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("profile", "data", "words"),
    [
        ("nowhere", None, ["nowhere", "does not exist", "small"]),
        ("wrong", None, ["profiles/wrong.yaml", "student.epochs", "many", "integer"]),
        ("unknown_key", None, ["student.epoch"]),
        ("real", None, ["needs data", "DATA=FOLDER"]),
        ("real", "missing_folder", ["missing_folder", "does not exist"]),
    ],
)
def test_a_bad_profile_is_one_sentence_and_changes_nothing(
    workspace: Path, profile: str, data: str | None, words: list[str]
) -> None:
    before = (workspace / "params.yaml").read_text()
    with pytest.raises(GatehouseError) as caught:
        apply_profile(profile, data)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
    assert (workspace / "params.yaml").read_text() == before


def test_every_profile_of_the_project_is_valid(workspace: Path, project: Path, tmp_path: Path) -> None:
    for profile in sorted((project / "profiles").glob("*.yaml")):
        shutil.copy(profile, workspace / "profiles")
        apply_profile(profile.stem, str(tmp_path))
    apply_profile("default", None)
    assert values(workspace) == yaml.safe_load((project / "params.yaml").read_text())
