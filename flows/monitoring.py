"""Look after what is deployed: `python -m flows.monitoring`, or on a schedule (`flows/schedule.py`).

Not a stage of dvc.yaml: it judges the requests of the last hours, which no dependency could name.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
from prefect import flow
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from rich.console import Console

from flows.advisories import read_feed
from flows.assets import read_register, write_register
from flows.champion import ProvenChampion, UnprovenError, load_champion
from flows.incidents import respond
from flows.rulings import in_force
from flows.server import server_url
from flows.stage import Context, main
from tasks.errors import GatehouseError
from tasks.files import read_json, write_json, write_text
from tasks.gate import utc_now
from tasks.monitoring.advisories import advisory_findings, match
from tasks.monitoring.assets import Register
from tasks.monitoring.drift import Drift, compare
from tasks.monitoring.extraction import Extraction, extraction, extraction_findings
from tasks.monitoring.findings import Finding, Standing, by_severity, findings
from tasks.monitoring.page import render
from tasks.monitoring.requests import HOUR, RequestStatistics, request_statistics
from tasks.params import Params, load_params
from tasks.risk import POLICY_FILE, load_policy
from tasks.serving.log import IMAGE_COLUMNS, REQUEST_COLUMNS, History, read_history
from tasks.serving.sketch import LENGTH
from tasks.serving.statistics import STATISTICS

REPORT = Path("reports/monitoring.json")
PAGE = Path("reports/monitoring.html")
SKETCH = "sketch"  # the reference's column that drift does not compare


def monitoring(context: Context, *, told: bool = False) -> None:
    """Write reports/monitoring.json and .html: requests, drift, the champion's evidence, advisories, incidents.

    Args:
        told: this run is to be recorded by a Prefect server; one that does not answer is then a finding.
    """
    params = context.params
    now = time.time()
    standing, champion = champion_standing(params)
    history, lost = _history(params, now)
    requests = _statistics(params, history, now)
    drift = input_drift(params, champion, history) if champion else None
    copying = query_extraction(champion, history) if champion else None
    register, assets_lost = _register(params)
    feed, feed_state = read_feed(params.monitoring, datetime.now(UTC))
    matches = match(feed, register) if feed and register else ()
    found = findings(
        standing,
        requests,
        drift,
        dropped=history.dropped,
        infrequent=not params.risk.c3_frequent_queries,
        frequent_images_per_hour=params.monitoring.frequent_images_per_hour,
        now=datetime.now(UTC),
        also=[
            *advisory_findings(feed_state, matches, since=standing.since, max_days=params.monitoring.advisories_days),
            *extraction_findings(copying, substitute_queries=params.monitoring.substitute_queries),
            *lost,
            *assets_lost,
            *([_prefect_is_gone()] if told and not server_url() else []),
        ],
    )
    incidents, undone = respond(found, standing, params)
    found = by_severity(found, undone)
    after = champion_standing(params)[0] if any(i.actions for i in incidents if i.state == "open") else standing
    if after.withdrawn and register:
        register, _ = _register(params)  # the version's status has changed
    report = {
        "created_at": utc_now(),
        "state": _state(found[0].severity) if found else "ok",
        "champion": after.model_dump(mode="json"),
        "gates": [g.model_dump(mode="json") for g in champion.proven.predicate.gates] if champion else [],
        "requests": requests.model_dump(mode="json"),
        "dropped": history.dropped,
        "drift": drift.model_dump(mode="json") if drift else None,
        "feed": feed_state.model_dump(mode="json"),
        "advisories": [m.model_dump(mode="json") for m in matches],
        "incidents": [i.model_dump(mode="json") for i in incidents],
        "assets": register.model_dump(mode="json") if register else None,
        "extraction": copying.model_dump(mode="json") if copying else None,
        "findings": [f.model_dump(mode="json") for f in found],
    }
    write_json(REPORT, report)
    write_text(PAGE, render(report))
    for f in found:
        context.say(f"{f.severity}: {f.reason} Next: {f.next_step}")
    context.say(f"{requests.requests} requests, {requests.images} images; report in {PAGE}")
    context.metrics(
        {
            "requests": requests.requests,
            "refused": requests.refused,
            "images": requests.images,
            "latency_p95_ms": requests.latency_ms["p95"],
            "drifted_share": drift.share if drift and drift.decided else None,
            "findings": len(found),
            "open_incidents": sum(i.state == "open" for i in incidents),
        }
    )
    for path in (REPORT, PAGE):
        context.artifact(str(path))


def requests_of(params: Params, now: float) -> tuple[RequestStatistics, int]:
    """Request statistics of the window that ends now, and how many requests could not be logged."""
    history, _ = _history(params, now)
    return _statistics(params, history, now), history.dropped


def _statistics(params: Params, history: History, now: float) -> RequestStatistics:
    window = params.monitoring.window_hours
    return request_statistics(history.requests, history.images, window_hours=window, end=now)


def _history(params: Params, now: float) -> tuple[History, list[Finding]]:
    """The window of the request log; one that cannot be read is a finding, and hides nothing else."""
    try:
        return read_history(params.serving.log, since=now - params.monitoring.window_hours * HOUR), []
    except GatehouseError as error:
        step = "Mend it; until then nothing is known of requests, and drift is not judged."
        nothing = History(pd.DataFrame(columns=list(REQUEST_COLUMNS)), pd.DataFrame(columns=list(IMAGE_COLUMNS)), 0)
        return nothing, [Finding(severity="warning", about="request log", reason=str(error), next_step=step)]


def _register(params: Params) -> tuple[Register | None, list[Finding]]:
    """The asset register, written; one that cannot be read is a finding."""
    try:
        register = read_register(params.promotion)
    except GatehouseError as error:
        step = "Mend it; until then no advisory is compared with the assets."
        return None, [Finding(severity="critical", about="assets", reason=str(error), next_step=step)]
    write_register(register)
    return register, []


def _prefect_is_gone() -> Finding:
    return Finding(
        severity="warning",
        about="Prefect",
        reason="Prefect's server does not answer any more: this run is not recorded there, and could start nothing.",
        next_step="Start it again (`make schedule`, or your server); its log is .gatehouse/logs/prefect-server.log.",
    )


@flow(name="monitoring", validate_parameters=False, persist_result=False)
def monitoring_flow() -> None:
    """The same as a Prefect flow, for a deployment with a schedule."""
    from flows.tracking import stage_run

    with stage_run("monitoring", None) as run_id:
        monitoring(Context("monitoring", "", load_params(), Console(width=160), run_id), told=True)


def champion_standing(params: Params) -> tuple[Standing, ProvenChampion | None]:
    """Who is champion and whether its evidence verifies at this moment; the champion itself if it does."""
    name = params.promotion.model_name
    try:
        ruled = in_force(params.promotion) or {}
    except GatehouseError:
        ruled = {}  # whatever is wrong with the decisions, load_champion says it
    known = {"version": str(ruled.get("version", "")), "sha256": ruled.get("sha256", ""), "since": ruled.get("at", "")}
    try:
        champion = load_champion(params.promotion)
    except UnprovenError as error:
        known = known if ruled else {"version": error.version}
        withdrawn = ruled.get("decision") == "withdrawn"
        return Standing(name=name, exists=True, problem=str(error), withdrawn=withdrawn, **known), None
    except GatehouseError as error:
        return Standing(name=name, exists=False, problem=str(error)), None
    proven = champion.proven
    return Standing(
        name=name,
        version=champion.version,
        sha256=proven.sha256,
        exists=True,
        since=known["since"],
        policy_in_force=not POLICY_FILE.exists() or load_policy().sha256 == proven.policy.sha256,
        signed_by=proven.signed_by,
        valid_until=proven.valid_until,
    ), champion


def input_drift(params: Params, champion: ProvenChampion, history: History) -> Drift:
    """Drift of the images that this champion answered in the window against its signed reference."""
    images = answered_by(champion, history)
    # The log keeps rounded figures: round the reference alike, or the test would see the rounding.
    digits = {"score": 2, **dict.fromkeys(STATISTICS, 6)}
    kept = {k: v for k, v in champion.reference().items() if k != SKETCH}
    reference = {k: np.round(v, digits[k]) if k in digits else v for k, v in kept.items()}
    current = {name: images[name].to_numpy(str if name == "label" else float) for name in reference}
    return compare(reference, current, allowed_share=params.monitoring.drift_share)


def run() -> None:
    """Monitor once. Prefect records the run where its server answers; where it is gone, before or during the run, the
    run goes on without it and says so."""
    told, reached = bool(os.environ.get("PREFECT_API_URL")), []

    def body(context: Context) -> None:
        reached.append("body")
        monitoring(context, told=told)
        reached.append("end")

    if told and not server_url():
        del os.environ["PREFECT_API_URL"]
    try:
        # Prefect waits a minute and more, call after call, for a server that is gone; the report is what matters here.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            main("monitoring", body, argv=[])
    except (RuntimeError, httpx.HTTPError, PrefectException):
        if reached == ["body"] or not told or server_url():
            raise  # a fault of ours, not of the server
        if not reached:
            del os.environ["PREFECT_API_URL"]
            main("monitoring", body, argv=[])
        else:
            _add_to_report(_prefect_is_gone())


def _add_to_report(finding: Finding) -> None:
    """Write the report once more with a finding that came after it."""
    report = read_json(REPORT)
    if finding.reason not in [f["reason"] for f in report["findings"]]:
        found = [*report["findings"], finding.model_dump(mode="json")]
        report["findings"] = [f.model_dump(mode="json") for f in by_severity(Finding.model_validate(f) for f in found)]
        report["state"] = _state(report["findings"][0]["severity"])
        write_json(REPORT, report)
        write_text(PAGE, render(report))
    print(f"{finding.severity}: {finding.reason} Next: {finding.next_step}")


def _state(worst: str) -> str:
    return worst if worst != "info" else "ok"


def query_extraction(champion: ProvenChampion, history: History) -> Extraction:
    """Extraction in the images that this champion answered in the window, against its signed reference."""
    reference = champion.reference().get(SKETCH, np.empty((0, LENGTH), np.int8))
    return extraction(answered_by(champion, history), reference)


def answered_by(champion: ProvenChampion, history: History) -> pd.DataFrame:
    """The images that this champion answered; what a guard refused has no answer."""
    own = history.images["model"] == champion.proven.sha256
    return history.images[own & (history.images["guard"] == "")]


if __name__ == "__main__":
    if sys.argv[1:]:
        from flows.monitoring_commands import command

        raise SystemExit(command(sys.argv[1:]))
    run()
