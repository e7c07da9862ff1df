from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.data.dataset import load_dataset, stratified
from tasks.errors import GatehouseError


def written(folder: Path, images: int = 60) -> Path:
    folder.mkdir()
    split = np.where(np.arange(60) < 40, "train", np.where(np.arange(60) < 50, "val", "test"))
    rows = {"label": np.where(np.arange(60) % 4 == 0, "rare", "common"), "split": split}
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet", index=False)
    np.save(folder / "images.npy", np.arange(images * 16, dtype=np.uint8).reshape(images, 1, 4, 4))
    (folder / "classes.json").write_text(json.dumps(["common", "rare"]))
    return folder


def test_a_part_holds_its_split_and_a_limit_keeps_class_shares(tmp_path: Path) -> None:
    dataset = load_dataset(written(tmp_path / "d"))
    images, labels = dataset.part("train")
    assert len(images) == len(labels) == 40
    assert (images == dataset.images[:40]).all()
    few, few_labels = dataset.part("train", limit=20, seed=1)
    assert len(few) == 20
    assert (few_labels == 1).sum() == 5
    assert (dataset.part("train", limit=20, seed=1)[0] == few).all()
    assert (dataset.part("train", limit=20, seed=2)[0] != few).any()
    assert len(dataset.part("test", limit=500)[1]) == 10


def test_a_sample_has_every_class_even_if_rare() -> None:
    labels = np.array([0] * 99 + [1])
    rows = stratified(np.arange(100), labels, 5, seed=0)
    assert set(labels[rows]) == {0, 1}
    assert (np.diff(rows) > 0).all()


def test_missing_and_inconsistent_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GatehouseError, match=r"manifest.parquet does not exist; run `make run`"):
        load_dataset(tmp_path / "absent")
    with pytest.raises(GatehouseError, match="59 images but 60 manifest rows; run the data stage again"):
        load_dataset(written(tmp_path / "torn", images=59))
