"""The figures are drawn, modest in size, and show what they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tasks.backdoor import figures
from tasks.backdoor.search import search


def test_worst_patches_transfer_and_entropies(world, tmp_path: Path) -> None:
    found = search(
        world.clean, (world.val[0][:30], world.val[1][:30]), world.test,
        patch_fraction=0.1, search_steps=1, restarts=1, seed=0,
    )  # fmt: skip
    names = ("rows", "columns", "rings")
    figures.worst_patches(tmp_path / "a.png", world.clean, found, world.test[0][:20], world.test[1][:20], names)
    control = np.array([[0.1, 0.9], [np.nan, 0.4]])
    figures.transfer(tmp_path / "b.png", ["canary0", "canary1"], ["all", "none"], control, np.full((2, 2), 0.9))
    groups = {"clean": np.linspace(0.2, 0.9, 40), "triggered": np.linspace(0, 0.3, 40)}
    entropies = {"candidate": groups, "canary0": groups}
    figures.entropy_histograms(tmp_path / "c.png", entropies, 0.2, alpha=0.05)
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.png"
        assert path.stat().st_size < 150_000
        with Image.open(path) as image:
            assert min(image.size) > 150
            assert np.asarray(image.convert("L")).std() > 5
