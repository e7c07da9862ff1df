"""The monitoring page in a browser: as a file, and served live while requests come in."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tasks" / "monitoring"))

import uvicorn
from monitoring_case import a_report
from page_checks import CONTRAST

from flows.monitoring_live import application
from flows.server import free_port
from tasks.files import write_json, write_text
from tasks.monitoring.page import render
from tasks.params import load_params
from tasks.serving.log import Entry, RequestLog

pytestmark = pytest.mark.browser
WIDTHS = (1280, 420)


def opened(browser, width: int, scheme: str, url: str):  # type: ignore[no-untyped-def]
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(url)
    return page


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["troubled", "calm"])
def test_the_file_fits_reads_well_and_asks_for_nothing(
    browser, tmp_path: Path, width: int, scheme: str, kind: str
) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "monitoring.html"
    write_text(path, render(a_report(troubled=kind == "troubled")))
    page = opened(browser, width, scheme, path.as_uri())
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.closest('.scroll') && t.caption)")
    assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-label'))")
    assert page.evaluate(CONTRAST) == []
    assert page.complaints == []
    words = page.locator("main").inner_text()
    assert ("Critical" in words) == (kind == "troubled")
    assert ("Taken out of service" in words) == (kind == "troubled")
    page.close()


@pytest.fixture
def live(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's own server over a report and an empty log; yields its address."""
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "reports/monitoring.json", a_report(troubled=False))
    params = load_params(project / "params.yaml")
    params = params.model_copy(update={"monitoring": params.monitoring.model_copy(update={"page_seconds": 1.0})})
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application(params), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("width", WIDTHS)
def test_new_requests_show_without_a_reload(browser, live: str, tmp_path: Path, width: int) -> None:  # type: ignore[no-untyped-def]
    page = opened(browser, width, "light", live)
    assert page.locator("#requests-count").inner_text() == "0"
    page.evaluate("window.kept = document.querySelector('#drift'); window.scrollTo(0, 50)")
    log = RequestLog(tmp_path / ".gatehouse/requests.db", max_rows=1000, max_days=1)
    for i in range(7):
        log.put(Entry(time.time(), f"10.0.0.{i}", 200 if i else 400, "" if i else "BAD_REQUEST", "f" * 64, 5.0))
    log.close()
    page.locator("#requests-count:text-is('7')").wait_for(timeout=30_000)
    assert "10.0.0.3" in page.locator("#requests").inner_text()
    assert page.locator("rect.refused").count() >= 1
    assert page.evaluate("window.kept.isConnected")  # what did not change was not touched
    assert page.evaluate("window.scrollY") == 50
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.complaints == []
    page.close()


def test_what_is_served_is_guarded(live: str) -> None:
    import httpx

    answer = httpx.get(live)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert httpx.get(f"{live}/monitoring.json").json()["champion"]["name"] == "gatehouse-student"
    assert httpx.get(live, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.post(live).status_code == 405
    Path("reports/monitoring.json").unlink()
    assert httpx.get(live).status_code == 503
