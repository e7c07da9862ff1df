"""`reports/monitoring.html`: one page, everything in it, nothing loaded from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

TITLES = {
    "mean": "Mean brightness",
    "sd": "Standard deviation",
    "contrast": "Contrast",
    "edge_energy": "Edge energy",
    "entropy": "Entropy (bits)",
    "score": "Score of the answer",
    "label": "Label",
}
WIDTH, HEIGHT = 260, 70  # of a histogram, in SVG units
TEMPLATE = Path(__file__).with_name("page.html.j2")


def render(report: dict[str, Any]) -> str:
    """The page for a report as `reports/monitoring.json` holds it. Every value is escaped."""
    drift = report["drift"]
    decided = drift is not None and drift["decided"]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **report,
        evidence=_evidence(report["champion"]),
        drift_word=("yes" if drift["drifted"] else "no") if decided else "not decided",
        titles=TITLES,
        bars=bars,
        width=WIDTH,
        height=HEIGHT,
    )


def _evidence(champion: dict[str, Any]) -> str:
    if not champion["exists"]:
        return "no champion"
    return "does not verify" if champion["problem"] else "verifies"


def bars(statistic: dict[str, Any]) -> list[tuple[str, float, float, float, float]]:
    """Paired bars of a statistic's two histograms: class, x, y, width, height, in SVG units."""
    pairs = list(zip(statistic["reference_share"], statistic["current_share"], strict=True))
    top = max((max(p) for p in pairs), default=0.0) or 1.0
    step = WIDTH / max(len(pairs), 1)
    drawn = []
    for i, pair in enumerate(pairs):
        for j, share in enumerate(pair):
            tall = round(HEIGHT * share / top, 2)
            x = round(i * step + j * step * 0.45, 2)
            drawn.append(("rc"[j], x, round(HEIGHT - tall, 2), round(step * 0.42, 2), tall))
    return drawn
