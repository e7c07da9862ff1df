"""Figures of a tuning: what utility costs in ε, and what the attacks still find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.models.figures import figure


def front_figure(path: Path, points: list[dict[str, Any]], chosen: dict[str, Any], *, utility: float) -> None:
    """Utility (left) and membership advantage, measured and at most possible (right), over ε; the suggestion marked.

    Args:
        points, chosen: as `Point.as_json` gives them, by rising ε.
        utility: AUC without privacy.
    """
    epsilons = [p["epsilon"] for p in points]
    with figure(path, width=8.2, height=3.4) as drawing:
        useful, risky = drawing.subplots(1, 2)
        useful.plot(epsilons, [p["utility"] for p in points], "o-")
        useful.axhline(utility, color="0.5", linestyle=":", label="without privacy")
        useful.plot(chosen["epsilon"], chosen["utility"], "D", color="C3", label="suggestion")
        useful.set(xscale="log", xlabel="ε, proven", ylabel="AUC on records for selection", title="Utility")
        advantage = [p["advantage"] for p in points]
        values = [a["value"] for a in advantage]
        ends = [[v - a["low"] for v, a in zip(values, advantage, strict=True)],
                [a["high"] - v for v, a in zip(values, advantage, strict=True)]]  # fmt: skip
        risky.errorbar(epsilons, values, ends, fmt="o-", capsize=3, label="strongest attack, measured")
        risky.plot(epsilons, [p["advantage_ceiling"] for p in points], "s--", color="0.4", label="any attack, proven")
        risky.plot(chosen["epsilon"], chosen["advantage"]["value"], "D", color="C3")
        risky.set(xscale="log", xlabel="ε, proven", ylabel="membership advantage", title="Risk", ylim=(0, 1))
        for axis in (useful, risky):
            axis.set_xticks(epsilons, [f"{e:.2g}" for e in epsilons], fontsize=8)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
