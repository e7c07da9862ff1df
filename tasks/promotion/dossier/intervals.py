"""A check as a small picture: the interval, the figure, the limit, and the side on which it would fail (inline SVG)."""

from __future__ import annotations

from markupsafe import Markup, escape

from tasks.gate import Check

WIDTH, HEIGHT, PAD = 180, 26, 8
COLOURS = {"passed": "#1a6b3c", "failed": "#a61b1b", "inconclusive": "#8a5a00"}


def picture(check: Check) -> Markup:
    """Scale from 0 to 1 for shares, else to a little beyond the largest value; empty where nothing was measured."""
    if check.observed is None or check.ci is None:
        return Markup("")
    values = (*check.ci, check.observed, check.threshold)
    low, high = min(0.0, *values), max(values)
    high = 1.0 if 0 < high <= 1 else high * 1.15 or 1.0

    def x(value: float) -> float:
        return round(PAD + (WIDTH - 2 * PAD) * (value - low) / (high - low), 1)

    limit, middle = x(check.threshold), HEIGHT / 2
    start, end = (limit, WIDTH - PAD) if check.op == "<=" else (PAD, limit)
    colour = COLOURS[check.status]
    parts = [
        f'<rect x="{start}" y="3" width="{max(0, end - start)}" height="{HEIGHT - 6}" fill="#f6dede"/>',
        f'<line x1="{PAD}" x2="{WIDTH - PAD}" y1="{middle}" y2="{middle}" stroke="#c3c9d1"/>',
        f'<line x1="{limit}" x2="{limit}" y1="1" y2="{HEIGHT - 1}" stroke="#4a525c" stroke-width="1.5"/>',
        f'<line x1="{x(check.ci[0])}" x2="{x(check.ci[1])}" y1="{middle}" y2="{middle}" stroke="{colour}" '
        'stroke-width="6" stroke-linecap="round" opacity=".45"/>',
        f'<circle cx="{x(check.observed)}" cy="{middle}" r="4.5" fill="{colour}"/>',
    ]
    label = escape(check.sentence())
    head = f'<svg class="interval" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704  numbers and an escaped sentence
