"""The monitoring flow over a real log, a real registry and a signed reference."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import yaml
from proven_project import images, inside, make_project
from rich.console import Console

from flows.monitoring import monitoring, monitoring_flow
from flows.stage import Context
from flows.tracking import stage_run
from tasks.models.checkpoints import load_model
from tasks.models.inference import as_float
from tasks.params import load_params
from tasks.serving.champion import Champion, answer
from tasks.serving.log import Entry, ImageEntry, RequestLog
from tasks.serving.sketch import sketches
from tasks.serving.statistics import digests, image_statistics


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Here a forged champion opens an incident and nothing more, or every later test would find it withdrawn."""
    case = make_project(tmp_path_factory.mktemp("project"))
    params = yaml.safe_load((case.root / "params.yaml").read_text())
    params["monitoring"]["on_incident"] = {}
    (case.root / "params.yaml").write_text(yaml.safe_dump(params))
    return case


def run(project) -> dict:
    with inside(project.root), stage_run("monitoring", None) as run_id:
        monitoring(Context("monitoring", "", load_params(), Console(quiet=True), run_id))
        assert "Monitoring of gatehouse-student" in (project.root / "reports/monitoring.html").read_text()
        return json.loads((project.root / "reports/monitoring.json").read_text())


def log_answers(project, sent: np.ndarray) -> None:
    """What the service would log for these uint8 images."""
    model, record = load_model(project.model)
    x = as_float(sent).numpy()
    answers = answer(Champion(model, record.spec, "m", "1", record.sha256, "rounded"), x)
    entries = [
        ImageEntry(d, a.label, a.score, tuple(f), s.tobytes())
        for d, a, f, s in zip(digests(x), answers, image_statistics(x).tolist(), sketches(x), strict=True)
    ]
    entries.append(ImageEntry("9" * 64, "", 0.0, (9.0,) * 5, guard="backdoor"))  # has no answer, and no part in drift
    path = project.root / ".gatehouse/requests.db"
    path.unlink(missing_ok=True)
    log = RequestLog(path, max_rows=10_000, max_days=30)
    for e in entries:
        log.put(Entry(time.time(), "127.0.0.1", 200, "", record.sha256, 5.0, (e,), (e.guard,) if e.guard else ()))
    log.close()


def test_no_request_is_said_and_is_no_error(project):
    (project.root / ".gatehouse/requests.db").unlink(missing_ok=True)
    report = run(project)
    assert report["state"] == "ok"
    assert [f["severity"] for f in report["findings"]] == ["info", "info"]
    assert "No request" in report["findings"][0]["reason"]
    assert report["drift"]["decided"] is False


def test_a_key_that_ends_soon_is_said_while_there_is_time(project):
    store = project.root / ".gatehouse/keys/trusted.json"
    kept = store.read_text()
    known = json.loads(kept)
    known["keys"][0]["not_after"] = (datetime.now(UTC) + timedelta(days=10, hours=1)).isoformat()
    try:
        store.write_text(json.dumps(known))
        [finding] = [f for f in run(project)["findings"] if f["about"] == "signing key"]
    finally:
        store.write_text(kept)
    assert finding["severity"] == "warning"
    assert "in 10 days nothing will be served" in finding["reason"]


def test_images_of_the_same_kind_do_not_drift(project):
    log_answers(project, images(200, seed=77))
    report = run(project)
    assert report["requests"]["images"] == 201
    assert report["requests"]["guards"] == {"backdoor": 1}
    assert report["drift"]["n_current"] == report["extraction"]["judged"] == 200
    assert report["drift"]["decided"] is True
    assert report["drift"]["drifted"] is False
    assert report["findings"] == []


def test_brighter_images_drift(project):
    brighter = np.clip(images(200, seed=77).astype(int) + 40, 0, 255).astype(np.uint8)
    log_answers(project, brighter)
    report = run(project)
    assert report["drift"]["drifted"] is True
    assert "mean" in [s["name"] for s in report["drift"]["statistics"] if s["drifted"]]
    assert [f["about"] for f in report["findings"]] == ["drift"]
    assert report["state"] == "warning"


def test_queries_made_from_a_few_images_are_told_as_extraction(project):
    rng = np.random.default_rng(0)
    few = images(10, seed=78).astype(int)
    log_answers(
        project, np.clip(few[np.arange(150) % 10] + rng.integers(-9, 10, (150, 1, 16, 16)), 0, 255).astype(np.uint8)
    )
    report = run(project)
    assert report["extraction"]["everybody"]["alarm_at"] < 60
    assert ("critical", "extraction") in [(f["severity"], f["about"]) for f in report["findings"]]


def test_answers_of_another_model_are_not_held_against_this_one(project):
    path = project.root / ".gatehouse/requests.db"
    path.unlink(missing_ok=True)
    log = RequestLog(path, max_rows=10_000, max_days=30)
    images_of_another = (ImageEntry("0" * 64, "covid", 0.5, (9.0,) * 5),) * 100
    log.put(Entry(time.time(), "127.0.0.1", 200, "", "f" * 64, 5.0, images_of_another))
    log.close()
    assert run(project)["drift"]["n_current"] == 0


def test_a_forged_champion_is_critical(project):
    policy = next((project.root / "mlartifacts").rglob("evidence/policy.json"))
    kept = policy.read_text()
    policy.write_text(kept.replace("rounded", "scores"))
    try:
        report = run(project)
    finally:
        policy.write_text(kept)
    assert report["state"] == "critical"
    assert report["findings"][0]["about"] == "champion"
    assert "not the file that was signed" in report["champion"]["problem"]
    assert report["drift"] is None


def test_a_broken_log_hides_nothing_else(project):
    path = project.root / ".gatehouse/requests.db"
    kept = path.read_bytes()
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    try:
        report = run(project)
    finally:
        path.write_bytes(kept)
    assert "request log" in [f["about"] for f in report["findings"]]
    assert report["champion"]["problem"] == ""


def test_a_forged_reference_is_told(project):
    reference = next((project.root / "mlartifacts").rglob("evidence/reference.npz"))
    kept = reference.read_bytes()
    reference.write_bytes(kept[:-1])
    try:
        report = run(project)
    finally:
        reference.write_bytes(kept)
    assert report["state"] == "critical"


def test_the_prefect_flow_takes_no_parameters():
    assert monitoring_flow.name == "monitoring"
    assert monitoring_flow.parameters.properties == {}
