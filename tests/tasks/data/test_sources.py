from __future__ import annotations

from pathlib import Path

import medmnist as package
import numpy as np
import pytest
from made_images import class_folders, data_params, encoded, picture

from tasks.data.build import read
from tasks.data.sources import open_source, sample
from tasks.data.sources.folder import folder, label_key, patient
from tasks.data.sources.medmnist import medmnist
from tasks.errors import GatehouseError


def folder_params(root: Path, path: str = ".", images: int = 0):  # type: ignore[no-untyped-def]
    task = {"path": path, "images": images}
    return data_params(source="folder", root=str(root), student_task=task)


def test_class_folders_are_read_with_labels_from_their_names(tmp_path: Path) -> None:
    class_folders(tmp_path / "set", {"COVID": 2, "Viral Pneumonia": 3}, kind="jpeg")
    records = folder(str(tmp_path), "set")
    assert [(r.path, r.label, r.split, r.group) for r in records[:2]] == [
        ("set/COVID/000.jpeg", "covid", "", ""),
        ("set/COVID/001.jpeg", "covid", "", ""),
    ]
    assert {r.label for r in records} == {"covid", "viral_pneumonia"}
    assert records[0].load() == (tmp_path / "set/COVID/000.jpeg").read_bytes()


def test_declared_splits_are_kept(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        class_folders(tmp_path / "chest_xray" / split, {"NORMAL": 2, "PNEUMONIA": 1})
    records = folder(str(tmp_path), "chest_xray")
    assert sorted({(r.split, r.label) for r in records}) == sorted(
        (s, c) for s in ("train", "val", "test") for c in ("normal", "pneumonia")
    )


def test_masks_metadata_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for label in ("COVID", "Lung_Opacity"):
        class_folders(tmp_path / label, {"images": 2, "masks": 2})
        (tmp_path / f"{label}.metadata.xlsx").write_bytes(b"PK")
        (tmp_path / label / "images" / ".hidden.png").write_bytes(b"")
        (tmp_path / label / "images" / "notes.txt").write_text("no image")
    records = folder(str(tmp_path), ".")
    assert [r.path for r in records] == [
        "COVID/images/000.png",
        "COVID/images/001.png",
        "Lung_Opacity/images/000.png",
        "Lung_Opacity/images/001.png",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("person1946_bacteria_4874.jpeg", "person1946_bacteria"),
        ("person1_virus_6.jpeg", "person1_virus"),
        ("person1407_virus_2415_2.jpeg", "person1407_virus"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("NORMAL2-IM-0441-0001-0002.jpeg", "NORMAL2-IM-0441"),
        ("COVID-12.png", ""),
        ("Normal-10192.png", ""),
        ("Viral Pneumonia-3.png", ""),
    ],
)
def test_patients_come_from_file_names(name: str, expected: str) -> None:
    assert patient(name) == expected


def test_spellings_side_by_side_collide_and_across_splits_agree(tmp_path: Path) -> None:
    assert label_key("Viral Pneumonia") == label_key("viral_pneumonia") == "viral_pneumonia"
    class_folders(tmp_path / "a/train", {"Normal": 1, "COVID": 1})
    class_folders(tmp_path / "a/test", {"NORMAL": 1, "covid": 1})
    assert {r.label for r in folder(str(tmp_path), "a")} == {"normal", "covid"}
    class_folders(tmp_path / "b", {"Viral Pneumonia": 1, "viral_pneumonia": 1, "x": 1})
    with pytest.raises(GatehouseError, match="'Viral Pneumonia', 'viral_pneumonia' differ only in case"):
        folder(str(tmp_path), "b")


def test_missing_empty_and_single_class_folders_are_one_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match=r"absent does not exist; set data.root"):
        folder(str(tmp_path), "absent")
    (tmp_path / "empty/COVID").mkdir(parents=True)
    with pytest.raises(GatehouseError, match="holds no JPEG or PNG images in class folders"):
        folder(str(tmp_path), "empty")
    class_folders(tmp_path / "one", {"COVID": 12})
    params = folder_params(tmp_path, "one")
    with pytest.raises(GatehouseError, match="Only one class, 'covid'"):
        open_source(params, params.student_task, seed=0)


def test_a_sample_keeps_patients_whole_and_class_shares(tmp_path: Path) -> None:
    for label, people in (("NORMAL", 40), ("PNEUMONIA", 20)):
        (tmp_path / label).mkdir()
        for person in range(people):
            for image in range(3):
                (tmp_path / label / f"person{person}_virus_{image}.png").write_bytes(b"")
    records = folder(str(tmp_path), ".")
    chosen = sample(records, 60, seed=1)
    assert chosen == sample(records, 60, seed=1)
    sizes: dict[tuple[str, str], int] = {}
    for r in chosen:
        sizes[r.label, r.group] = sizes.get((r.label, r.group), 0) + 1
    assert set(sizes.values()) == {3}
    assert sum(r.label == "normal" for r in chosen) == pytest.approx(40, abs=2)
    params = folder_params(tmp_path, images=60)
    assert len(open_source(params, params.student_task, seed=1)) == len(chosen)


def npz(root: Path, flag: str, size: int, counts: tuple[int, int, int], rgb: bool = False) -> None:
    arrays = {}
    rng = np.random.default_rng(0)
    for split, n in zip(("train", "val", "test"), counts, strict=True):
        shape = (n, size, size, 3) if rgb else (n, size, size)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2)[:, None].astype(np.uint8)
    np.savez(root / f"{flag}{'' if size == 28 else f'_{size}'}.npz", **arrays)


def test_medmnist_is_read_at_the_smallest_size_that_fits(tmp_path: Path) -> None:
    npz(tmp_path, "pneumoniamnist", 28, (6, 4, 2))
    npz(tmp_path, "pneumoniamnist", 64, (8, 4, 2))
    records = medmnist(str(tmp_path), "pneumoniamnist", 32)
    assert len(records) == 14
    assert records[0].path == "pneumoniamnist_64.npz/train/000000"
    assert [r.split for r in records].count("val") == 4
    assert {r.label for r in records} == {"normal", "pneumonia"}
    content = records[3].load()
    assert isinstance(content, np.ndarray)
    expected = np.load(tmp_path / "pneumoniamnist_64.npz")["train_images"][3]
    assert (content == expected).all()
    assert medmnist(str(tmp_path), "pneumoniamnist", 28)[0].path.startswith("pneumoniamnist.npz")
    assert medmnist(str(tmp_path), "pneumoniamnist", 200)[0].path.startswith("pneumoniamnist_64.npz")


def test_colour_medmnist_becomes_gray_where_gray_is_asked_for(tmp_path: Path) -> None:
    npz(tmp_path, "breastmnist", 28, (4, 2, 2), rgb=True)
    params = data_params(source="medmnist", root=str(tmp_path), student_task={"path": "breastmnist", "images": 0})
    reading = read(open_source(params, params.student_task, seed=0), params)
    assert reading.images["none"].shape == (8, 1, 32, 32)


def test_bad_medmnist_input_is_one_sentence_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GatehouseError, match=r"'fashionmnist' is no MedMNIST set.*pneumoniamnist"):
        medmnist(str(tmp_path), "fashionmnist", 28)
    with pytest.raises(GatehouseError, match="'chestmnist' is no MedMNIST set of labelled 2D"):
        medmnist(str(tmp_path), "chestmnist", 28)  # several labels an image
    with pytest.raises(GatehouseError, match="of MedMNIST files does not exist"):
        medmnist(str(tmp_path / "absent"), "pneumoniamnist", 28)
    (tmp_path / "pneumoniamnist.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(GatehouseError, match="is no readable MedMNIST file"):
        medmnist(str(tmp_path), "pneumoniamnist", 28)

    def offline(self: object) -> None:
        raise RuntimeError("Automatic download failed!")

    monkeypatch.setattr(package.BreastMNIST, "download", offline)
    with pytest.raises(GatehouseError, match=r"breastmnist_64.npz does not exist and could not be downloaded"):
        medmnist(str(tmp_path), "breastmnist", 64)


def test_the_phantom_adds_flaws_to_the_students_task_only() -> None:
    params = data_params()
    teacher = open_source(params, params.teacher_task, seed=7)
    student = open_source(params, params.student_task, seed=7)
    assert not [r for r in teacher if "flaw" in r.path]
    flaws = {r.path.split("flaw_")[1] for r in student if "flaw" in r.path}
    assert flaws == {
        "cut_file",
        "blank",
        "copy",
        "near_copy",
        "copy_under_another_label",
        "teachers_image_0",
        "teachers_image_1",
    }
    assert len(teacher) == 40
    assert len(student) == 60 + len(flaws)
    assert len({r.path for r in student}) == len(student)


def test_a_png_and_a_jpeg_of_any_mode_and_size_are_read(tmp_path: Path) -> None:
    rgb = np.stack([picture(1, 90)] * 3, axis=-1)
    for name, content in (
        ("a/gray.png", encoded(picture(0, 33))),
        ("a/rgb.png", encoded(rgb)),
        ("a/alpha.png", encoded(np.dstack([rgb, rgb[..., 0]]))),
        ("a/deep.png", encoded(picture(2, 40).astype(np.uint16) << 8)),
        ("b/gray.jpg", encoded(picture(3, 300), "JPEG")),
        ("b/rgb.jpeg", encoded(np.stack([picture(4, 70)] * 3, axis=-1)[:50], "JPEG")),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    params = folder_params(tmp_path)
    for channels in (1, 3):
        reading = read(
            open_source(params, params.student_task, seed=0), params.model_copy(update={"channels": channels})
        )
        assert reading.images["none"].shape == (6, channels, 32, 32)
        assert not reading.unreadable
    sizes = dict(zip([r.path for r in reading.records], zip(reading.width, reading.height, strict=True), strict=True))
    assert sizes["b/rgb.jpeg"] == (70, 50)
    assert sizes["b/gray.jpg"] == (300, 300)  # the full size, though decoded at a reduced scale
    deep = reading.mean[[r.path for r in reading.records].index("a/deep.png")]
    assert deep == pytest.approx(picture(2, 40).mean(), abs=1)  # 16 bits are scaled, not clipped
