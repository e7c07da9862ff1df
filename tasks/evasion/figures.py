"""Figures of the adversarial gate: accuracy against budget, and what an attack looks like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tasks.evasion.attacks.fingerprint import CERTAINLY_NOT
from tasks.evasion.measure import Curve
from tasks.evasion.sample import Sample, as_255
from tasks.evasion.threat_models import THREAT_MODELS
from tasks.models.figures import figure
from tasks.stats import clopper_pearson


def accuracy_against_budget(
    path: Path, curves: dict[str, Curve], sample: Sample, *, reference: Sequence[Sequence[float | None]] = ()
) -> None:
    """One line a threat model with its 95 % band, from the clean accuracy at budget 0.

    Args:
        reference: success of the gray box on students that copied the teacher whole, a row a student.
    """
    k = len(sample.rows)
    with figure(path, width=6.6, height=4.2) as drawing:
        axis = drawing.subplots()
        for threat, marker in zip(THREAT_MODELS, "osD^", strict=True):
            curve = curves[threat.name]
            right = [k, *(k - int(f.sum()) for f in curve.fooled)]
            budgets = [0.0, *(b * 255 for b in curve.budgets)]
            ends = np.array([clopper_pearson(r, sample.n) for r in right])
            (line,) = axis.plot(budgets, [r / max(sample.n, 1) for r in right], f"{marker}-", label=threat.title)
            axis.fill_between(budgets, ends[:, 0], ends[:, 1], color=line.get_color(), alpha=0.15)
        for i, row in enumerate(reference):
            points = [(b * 255, 1 - s) for b, s in zip(curve.budgets, row, strict=True) if s is not None]
            label = "Drill: gray box on copies of the teacher, of images right before" if i == 0 else None
            axis.plot(*zip(*points, strict=True), ":", color="0.5", label=label) if points else None
        axis.set(xlabel="budget: largest change of a pixel, in 255ths", ylabel="accuracy under attack", ylim=(0, 1.02))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)


def success_by_freeze(path: Path, rows: Sequence[dict[str, Any]], eps: float) -> None:
    """A bar for each kind of student with its 95 % interval; rows as tasks/evasion/verdict.by_freeze gives them."""
    shown = [r for r in rows if r["success"]["value"] is not None]
    if not shown:
        return
    values = np.array([[r["success"][k] for k in ("value", "low", "high")] for r in shown])
    with figure(path, width=5.6, height=3.2) as drawing:
        axis = drawing.subplots()
        axis.bar(range(len(shown)), values[:, 0], width=0.6, color="0.6")
        axis.errorbar(
            range(len(shown)), values[:, 0], [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]],
            fmt="none", ecolor="black", capsize=4,
        )  # fmt: skip
        axis.set_xticks(range(len(shown)), [r["trained"].replace(", ", ",\n") for r in shown], fontsize=8)
        axis.set(ylabel=f"fooled through the teacher at {as_255(eps)}", ylim=(0, 1.02))
        axis.grid(alpha=0.3, axis="y")


def confusion(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Students by networks: dispersion of the answers, dark where it is small; the network that is named stands framed.

    Args:
        rows: as tasks/evasion/attacks/fingerprint.confusion gives them.
    """
    names = list(rows[0]["dispersions"])
    values = np.array([[r["dispersions"][n] for n in names] for r in rows])
    varied = np.where(values < CERTAINLY_NOT, values, np.nan)
    top = np.nan_to_num(varied, nan=1e-9).max(1, keepdims=True)
    with figure(path, width=1.9 + 0.95 * len(names), height=1.1 + 0.5 * len(rows)) as drawing:
        axis = drawing.subplots()
        axis.imshow(np.nan_to_num(varied / top, nan=1.6), cmap="Blues_r", vmin=-0.6, vmax=1.6, aspect="auto")
        for i, row in enumerate(rows):
            for j, name in enumerate(names):
                said = "certain" if np.isnan(varied[i, j]) else f"{values[i, j]:.2f}"
                own = {"boxstyle": "round", "fill": False, "linewidth": 1.5} if name == row["named"] else None
                axis.text(j, i, said, ha="center", va="center", fontsize=8, bbox=own)
        axis.set_xticks(range(len(names)), names, fontsize=8)
        axis.set_yticks(range(len(rows)), [r["student"].replace(", ", ",\n") for r in rows], fontsize=8)
        axis.set_xlabel("whose blank images were sent", fontsize=8)


def strip(path: Path, sample: Sample, crafted: dict[str, Tensor], answers: dict[str, list[str]], eps: float) -> None:
    """A row a threat model: an image, what it became, and the difference, scaled so that the budget spans the range.

    Args:
        crafted: by threat model, the first of the sample's images as changed, shape (k, channels, side, side).
        answers: by threat model, `true class → answer` for each of them.
    """
    if not len(sample.x):
        return
    shown = [t for t in THREAT_MODELS if t.name in crafted]
    with figure(path, width=4.6, height=1.56 * len(shown)) as drawing:
        cells = drawing.subplots(len(shown), 3, squeeze=False)
        for row, threat in zip(cells, shown, strict=True):
            changed = crafted[threat.name]
            fooled = [i for i, a in enumerate(answers[threat.name]) if a.split(" → ")[0] != a.split(" → ")[1]]
            i = fooled[0] if fooled else 0
            before, after = sample.x[i], changed[i]
            pictures = (before, after, (after - before) / (2 * eps) + 0.5)
            titles = ("original", answers[threat.name][i], f"difference, ±{as_255(eps)}")
            for axis, picture, title in zip(row, pictures, titles, strict=True):
                axis.imshow(picture.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
                axis.set_title(title, fontsize=8)
                axis.set_xticks([])
                axis.set_yticks([])
            row[0].set_ylabel(threat.title.split(":")[0], fontsize=8)
