"""The study's Figures 41 and 42 again: utility over clipping and noise, and what the attack finds over noise."""

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
