"""The dossier as a reviewer opens it: one file, in a browser, at the width of a desk and of a telephone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks" / "promotion"))

from dossier_case import write_page
from page_checks import CONTRAST

pytestmark = pytest.mark.browser
WIDTHS = (1280, 420)


@pytest.fixture(scope="module", params=["promoted", "refused", "bare"])
def dossier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    kind: str = request.param
    return kind, write_page(tmp_path_factory.mktemp(kind), kind)


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser, dossier: tuple[str, Path]) -> Iterator[tuple]:  # type: ignore[no-untyped-def]
    """The page, what it asked of the network, and what its console complained about."""
    kind, path = dossier
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.route(
        lambda url: not url.startswith(("file:", "data:")),
        lambda route: (asked.append(route.request.url), route.abort()),
    )
    page.goto(path.as_uri())
    yield kind, page, asked, complaints
    page.close()


def test_it_loads_nothing_and_complains_of_nothing(opened: tuple) -> None:
    _, page, asked, complaints = opened
    assert asked == []
    assert complaints == []
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_it_fits_its_width(opened: tuple) -> None:
    """Wide tables scroll in a container of their own; the page itself never scrolls sideways."""
    _, page, _, _ = opened
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.closest('.scroll'))")
    sticking_out = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert sticking_out == []


def test_the_verdict_comes_first_and_the_chapters_follow(opened: tuple) -> None:
    kind, page, _, _ = opened
    headings = page.locator("h1, h2, [role=heading]").all_inner_texts()
    word = "Refused" if kind == "refused" else "Promoted"
    assert headings[0].startswith("Security dossier of")
    assert headings[1] == word
    assert page.locator(".verdict").bounding_box()["y"] < 400
    wanted = ["Gates", "Evidence, gate by gate", "Data", "Teacher", "Freeze policy", "Candidates", "Policy"]
    positions = [headings.index(h) for h in [*wanted, "Origin and digests", "Glossary"]]
    assert positions == sorted(positions)
    assert ("Why it was refused, and what to do next" in headings) == (kind == "refused")


def test_it_can_be_read_without_seeing_it(opened: tuple) -> None:
    """Language, alternative texts, table headers, links that lead somewhere, and no empty region name."""
    _, page, _, _ = opened
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("[...document.images].every(i => i.alt.trim().length > 3)")
    assert page.evaluate("[...document.querySelectorAll('svg[role=img]')].every(s => s.getAttribute('aria-label'))")
    assert page.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.caption && t.querySelectorAll('th[scope=col]').length)"
    )
    assert page.evaluate("[...document.querySelectorAll('tbody tr')].every(r => r.querySelector('th[scope=row]'))")
    assert page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.getElementById(a.hash.slice(1)))"
    )
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )


def test_text_stands_out_from_its_ground(opened: tuple) -> None:
    """WCAG AA: a contrast of at least 4.5."""
    _, page, _, _ = opened
    assert page.evaluate(CONTRAST) == []
