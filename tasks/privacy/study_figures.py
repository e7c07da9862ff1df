"""The study's Figures 41 to 44 and 46 again: surfaces over clipping and noise, and the optimiser's best trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.models.figures import figure


def surfaces_figure(path: Path, surfaces: Sequence[Mapping[str, Any]], *, base: float) -> None:
    """Mean change of utility on the grid (left), and leakage at the best clipping of each noise, by seed (right).

    Args:
        surfaces: one a seed, as the tables hold it: "clip", "noise", "utility" (clip, noise), "leakage_at_best_clip".
        base: mean leakage without privacy.
    """
    first = surfaces[0]
    mean = np.mean([s["utility"] for s in surfaces], 0)
    with figure(path, width=8.4, height=3.4) as drawing:
        useful, leaking = drawing.subplots(1, 2)
        ends = (first["noise"][0], first["noise"][-1], first["clip"][0], first["clip"][-1])
        image = useful.imshow(mean, origin="lower", aspect="auto", extent=ends, cmap="viridis")
        drawing.colorbar(image, ax=useful)
        useful.set(xlabel="noise multiplier", ylabel="clipping norm", title="Change of AUC")
        for s in surfaces:
            leaking.plot(s["noise"], s["leakage_at_best_clip"], "-", alpha=0.7, label=f"seed {s['seed']}")
        leaking.axhline(base, color="C3", linestyle="--", label="without privacy")
        leaking.axhline(0.5, color="0.4", linestyle=":", label="guessing")
        leaking.set(xlabel="noise multiplier", ylabel="leakage (accuracy of the attack)", title="What the attack finds")
        leaking.grid(alpha=0.3)
        leaking.legend(fontsize=8)


def search_figure(path: Path, searches: Sequence[Mapping[str, Any]]) -> None:
    """New best trials of searches with several upper ends (Figures 43, 44, 46): change of utility, leakage, objective.

    Args:
        searches: each with "most" and "best", a list of trials with "trial", "utility_change", "leakage", "objective".
    """
    titles = {"utility_change": "Change of AUC", "leakage": "What the attack finds", "objective": "Objective, t = .5"}
    with figure(path, width=9.6, height=3.0) as drawing:
        for axis, (key, title) in zip(drawing.subplots(1, 3), titles.items(), strict=True):
            for search, marker in zip(searches, "osD^v", strict=False):
                trials = [b["trial"] for b in search["best"]]
                values = [b[key] for b in search["best"]]
                axis.plot(trials, values, f"{marker}-", markersize=4, label=f"up to {search['most']:g}")
            axis.set(xlabel="trial", title=title)
            axis.grid(alpha=0.3)
        axis.legend(fontsize=8, title="clipping and noise")
