"""Pictures of the data for readers: a contact sheet, class histograms, and what the border tells."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from tasks.data.dataset import SPLITS
from tasks.data.decode import Remedy
from tasks.data.prepare import Prepared
from tasks.data.shortcut import Told
from tasks.files import writing

COLUMNS = 10
PIXELS = 64  # of a picture on the contact sheet
SPLIT_COLOURS = {"train": "#2f5d8a", "val": "#d9a441", "test": "#7a8f5a"}


def contact_sheet(prepared: Prepared, path: Path, *, seed: int, title: str) -> None:
    """A row a class, COLUMNS images of each, drawn at random."""
    rng = np.random.default_rng(seed)
    height = len(prepared.classes)
    figure, axes = plt.subplots(
        height, COLUMNS, figsize=(COLUMNS * 0.95 + 0.2, height * 1.17 + 0.35), squeeze=False, layout="constrained"
    )
    for row, name in enumerate(prepared.classes):
        own = np.flatnonzero(prepared.labels == row)
        chosen = rng.choice(own, size=min(COLUMNS, len(own)), replace=False)
        for column in range(COLUMNS):
            axis = axes[row, column]
            axis.set_axis_off()
            if column < len(chosen):
                image = prepared.images[chosen[column]]
                step = max(1, image.shape[-1] // PIXELS)
                picture = image[:, ::step, ::step].transpose(1, 2, 0)
                axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes[row, 0].set_title(f"{name} ({len(own)})", loc="left", fontsize=10)
    figure.suptitle(title, fontsize=11)
    _save(figure, path, dpi=90, gray=prepared.images.shape[1] == 1)


def class_histogram(prepared: Prepared, path: Path, *, title: str) -> None:
    """Images of each class in each split, as stacked bars with counts."""
    figure, axis = plt.subplots(figsize=(6.4, 0.55 * len(prepared.classes) + 1.5), layout="constrained")
    splits = prepared.manifest["split"].to_numpy(str)
    counts = np.array(
        [[int(((prepared.labels == c) & (splits == s)).sum()) for s in SPLITS] for c in range(len(prepared.classes))]
    )
    left = np.zeros(len(prepared.classes))
    for name, own in zip(SPLITS, counts.T, strict=True):
        bars = axis.barh(prepared.classes, own, left=left, color=SPLIT_COLOURS[name], label=name)
        left += own
    # At the end of the bar: inside narrow parts the numbers would lie on each other.
    axis.bar_label(bars, [" / ".join(map(str, row)) for row in counts], fontsize=8, padding=4)
    axis.set_xlim(0, left.max() * 1.22)
    axis.invert_yaxis()
    axis.set_xlabel("images")
    figure.suptitle(title, fontsize=10)
    figure.legend(fontsize=8, ncols=3, loc="outside lower center", frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path, dpi=110)


def shortcut_bars(told: Mapping[Remedy, dict[str, Told]], path: Path, *, threshold: float, chosen: str) -> None:
    """Gain over chance from border, corners and coarse image, for each remedy, with 95 % intervals."""
    figure, axis = plt.subplots(figsize=(6.4, 3.3), layout="constrained")
    regions = {"border": "border alone", "corners": "corners alone", "coarse": "whole image, 16×16"}
    colours = ("#b5533c", "#d9a441", "#2f5d8a")
    for k, (region, text) in enumerate(regions.items()):
        found = [told[remedy][region] for remedy in told]
        x = np.arange(len(told)) + (k - 1) * 0.26
        low = [t.gain - t.gain_ci[0] for t in found]
        high = [t.gain_ci[1] - t.gain for t in found]
        errors = np.clip([low, high], 0, None)
        axis.bar(x, [t.gain for t in found], 0.24, color=colours[k], label=text, yerr=errors, capsize=2)
    axis.axhline(threshold, color="black", lw=1, ls="--", label="highest allowed for border and corners")
    axis.axhline(0, color="black", lw=0.6)
    axis.set_xticks(range(len(told)), [f"{r}\n(in use)" if r == chosen else r for r in told])
    axis.set_ylabel("label told, from chance (0) to always (1)", fontsize=9)
    axis.set_ylim(min(-0.1, *(t.gain_ci[0] for r in told.values() for t in r.values())), 1.25)
    axis.legend(fontsize=8, ncols=2, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path, dpi=100)


def _save(figure: plt.Figure, path: Path, *, dpi: int, gray: bool = False) -> None:
    """Write a PNG; a gray one takes half the space."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    with writing(path) as temporary:
        Image.open(buffer).convert("L" if gray else "RGB").save(temporary, format="PNG", optimize=True)
