"""A published advisory takes the champion out of service and starts the lifecycle: real processes, real servers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tasks" / "promotion"))

from promotion_case import TEACHER
from proven_project import inside, make_project

from flows.champion import UnprovenError, load_champion
from flows.incidents import read_incidents
from flows.server import RECORD
from tasks.params import load_params
from tests.end_to_end.site import PATIENCE, Site, wait_for

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("site")
    make_project(root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["monitoring"].update(advisories="published/feed.json", advisories_key="publisher/feed.pub")
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return Site(root)


@pytest.fixture(scope="module")
def schedule(site: Site) -> Iterator[subprocess.Popen[str]]:
    """`python -m flows.schedule`: a Prefect server with the lifecycle's deployment and the monitor's."""
    process = site.start("flows.schedule")

    def deployed() -> bool:
        url = f"{site.prefect()}/deployments/name/lifecycle/lifecycle"
        return httpx.get(url, timeout=5).status_code == 200

    try:
        wait_for(deployed, process, site, "flows.schedule")
        yield process
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        for member in reversed(family):
            member.kill()
        process.wait(30)


def publish(site: Site, *digests: str) -> None:
    listed = [{"id": "ADV-7", "text": "Backdoored by its provider.", "severity": "critical", "sha256": list(digests)}]
    (site.root / "feed.yaml").write_text(yaml.safe_dump({"advisories": listed}))
    site.run("flows.advisories", "sign", "feed.yaml", "--key", "publisher/feed.key", "--out", "published/feed.json")


def test_an_advisory_for_the_teacher_takes_the_champion_out_and_starts_the_lifecycle(
    site: Site, schedule: subprocess.Popen[str]
) -> None:
    publish(site, "0" * 64)
    serving = site.start("flows.serving")
    url = f"http://127.0.0.1:{yaml.safe_load((site.root / 'params.yaml').read_text())['serving']['port']}"
    try:
        wait_for(lambda: httpx.get(f"{url}/ping", timeout=5).status_code == 200, serving, site, "flows.serving")
        site.run("flows.monitoring")
        assert site.report()["champion"]["problem"] == ""
        assert site.report()["incidents"] == []

        publish(site, "0" * 64, TEACHER)
        said = site.run("flows.monitoring")
        assert "critical: Advisory ADV-7 names the teacher" in said
        gone = wait_for(lambda: httpx.get(f"{url}/ping", timeout=5).status_code == 503, serving, site, "flows.serving")
        assert gone
        assert httpx.get(f"{url}/v2/health/live", timeout=5).status_code == 200  # it stays up, and comes back by itself
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.wait(PATIENCE)

    with inside(site.root):
        with pytest.raises(UnprovenError, match=r"out of service .* Incident .* Advisory ADV-7 names the teacher"):
            load_champion(load_params().promotion)
        [incident] = read_incidents()
    assert (incident.state, incident.pending, set(incident.done)) == ("open", (), {"withdraw", "lifecycle"})
    [run] = site.started()
    assert run["id"] in incident.done["lifecycle"]
    assert run["idempotency_key"] == f"gatehouse-{incident.id}"
    report = site.report()
    assert (report["state"], report["champion"]["withdrawn"]) == ("critical", True)
    assert [v["status"] for v in report["assets"]["versions"]] == ["withdrawn"]

    site.run("flows.monitoring")
    assert len(site.started()) == 1
    assert len(site.report()["incidents"]) == 1
    assert site.report()["findings"][0]["about"] == "champion"


def test_prefect_s_server_killed_during_a_run_costs_neither_run_nor_report(
    site: Site, schedule: subprocess.Popen[str]
) -> None:
    (site.root / "reports/monitoring.json").unlink(missing_ok=True)
    url = site.prefect()
    monitor = site.start("flows.monitoring", PREFECT_API_URL=url)
    running = wait_for(
        lambda: [r for r in site.flow_runs("monitoring") if r["state_type"] == "RUNNING"],
        monitor,
        site,
        "flows.monitoring",
    )
    assert len(running) == 1
    psutil.Process(json.loads((site.root / RECORD).read_text())["pid"]).kill()
    try:
        assert monitor.wait(PATIENCE) == 0, site.output("flows.monitoring")
    finally:
        monitor.kill()
    report = site.report()
    assert "Prefect" in [f["about"] for f in report["findings"]]
    assert report["requests"]["requests"] >= 0
    assert "Prefect's server does not answer any more" in site.output("flows.monitoring")
    assert "Prefect" in (site.root / "reports/monitoring.html").read_text()

    before = report["created_at"]
    time.sleep(1)
    site.run("flows.monitoring", PREFECT_API_URL=url)  # gone from the start
    assert site.report()["created_at"] > before
    assert "Prefect" in [f["about"] for f in site.report()["findings"]]
