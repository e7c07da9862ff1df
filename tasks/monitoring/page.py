"""`reports/monitoring.html`: one page, everything in it, nothing loaded from anywhere.

The same page is served live (`python -m flows.monitoring serve`), with a script of its own that renews what changed.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

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
WIDE, TALL = 960, 110  # of the bars over time
FILES = Path(__file__).with_name("templates")
TEMPLATE = FILES / "page.html.j2"
STYLE = (FILES / "page.css").read_text(encoding="utf-8")
SCRIPT = (FILES / "live.js").read_text(encoding="utf-8")
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()  # for a Content-Security-Policy


def render(report: dict[str, Any], *, live_at: str = "", seconds: float = 0, part: bool = False) -> str:
    """The page for a report as `reports/monitoring.json` holds it. Every value is escaped.

    Args:
        live_at: when requests and incidents were read, for a page that renews itself; "" for one that lies in a file.
        seconds: how often it does.
        part: only what stands in <main>.
    """
    drift, extraction = report["drift"], report.get("extraction")
    decided = drift is not None and drift["decided"]
    hours = report["requests"]["hours"]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **{"extraction": None, "assets": None, **report},
        evidence=_evidence(report["champion"]),
        drift_word=("yes" if drift["drifted"] else "no") if decided else "not decided",
        extraction_word=_extraction(extraction),
        open_incidents=sum(i["state"] == "open" for i in report["incidents"]),
        hour_bars=hour_bars(hours),
        most=max((h["answered"] + h["refused"] for h in hours), default=0),
        titles=TITLES,
        bars=bars,
        width=WIDTH,
        height=HEIGHT,
        wide=WIDE,
        tall=TALL,
        style=Markup(STYLE),  # noqa: S704  our own file
        live_at=live_at,
        seconds=seconds,
        part=part,
    )


def _evidence(champion: dict[str, Any]) -> str:
    if not champion["exists"]:
        return "none"
    if champion["withdrawn"]:
        return "withdrawn"
    return "unproven" if champion["problem"] else "proven"


def _extraction(found: dict[str, Any] | None) -> str:
    if not found or not found["decided"]:
        return "not decided"
    scopes = [found["everybody"], *found["accounts"]]
    return "suspected" if any(s and s["alarm_at"] for s in scopes) else "none seen"


def hour_bars(hours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answered below, refused on top of them, one bar for each stretch of time; in SVG units."""
    most = max((h["answered"] + h["refused"] for h in hours), default=0)
    step, drawn = WIDE / max(len(hours), 1), []
    for i, hour in enumerate(hours):
        bottom = float(TALL)
        for kind in ("answered", "refused"):
            height = TALL * hour[kind] / max(most, 1)
            bottom -= height
            if height:
                drawn.append(
                    {
                        "kind": kind,
                        "x": round(i * step + step * 0.08, 2),
                        "y": round(bottom, 2),
                        "width": round(step * 0.84, 2),
                        "height": round(height, 2),
                        "title": f"{hour['start']}: {hour[kind]} {kind}",
                    }
                )
    return drawn


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
