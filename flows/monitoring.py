"""Look after what is deployed: `python -m flows.monitoring`, or on a schedule (`flows/schedule.py`).

Not a stage of dvc.yaml: it judges the requests of the last hours, which no dependency could name.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import flow
from rich.console import Console

from flows.champion import ProvenChampion, UnprovenError, load_champion
from flows.stage import Context, main
from tasks.errors import GatehouseError
from tasks.files import write_json, write_text
from tasks.monitoring.drift import Drift, compare
from tasks.monitoring.extraction import Extraction, extraction, extraction_findings
from tasks.monitoring.findings import Standing, by_severity, findings
from tasks.monitoring.page import render
from tasks.monitoring.requests import HOUR, request_statistics
from tasks.params import Params, load_params
from tasks.risk import POLICY_FILE, load_policy
from tasks.serving.log import History, read_history
from tasks.serving.sketch import LENGTH
from tasks.serving.statistics import STATISTICS

REPORT = Path("reports/monitoring.json")
PAGE = Path("reports/monitoring.html")
SKETCH = "sketch"  # the reference's column that drift does not compare


def monitoring(context: Context) -> None:
    """Write reports/monitoring.json and .html: requests, input drift, and whether the champion is still proven."""
    params = context.params
    window = params.monitoring.window_hours
    standing, champion = champion_standing(params)
    history = read_history(params.serving.log, since=time.time() - window * HOUR)
    requests = request_statistics(history.requests, history.images, window_hours=window)
    drift = input_drift(params, champion, history) if champion else None
    copying = query_extraction(champion, history) if champion else None
    found = findings(
        standing,
        requests,
        drift,
        dropped=history.dropped,
        infrequent=not params.risk.c3_frequent_queries,
        frequent_images_per_hour=params.monitoring.frequent_images_per_hour,
    )
    found = by_severity(found, extraction_findings(copying, substitute_queries=params.monitoring.substitute_queries))
    report = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": found[0].severity if found and found[0].severity != "info" else "ok",
        "champion": standing.model_dump(mode="json"),
        "requests": requests.model_dump(mode="json"),
        "dropped": history.dropped,
        "drift": drift.model_dump(mode="json") if drift else None,
        "extraction": copying.model_dump(mode="json") if copying else None,
        "findings": [f.model_dump(mode="json") for f in found],
    }
    write_json(REPORT, report)
    write_text(PAGE, render(report))
    context.metrics(
        {
            "requests": requests.requests,
            "refused": requests.refused,
            "images": requests.images,
            "latency_p95_ms": requests.latency_ms["p95"],
            "drifted_share": drift.share if drift and drift.decided else None,
            "findings": len(found),
        }
    )
    for path in (REPORT, PAGE):
        context.artifact(str(path))
    for f in found:
        context.say(f"{f.severity}: {f.reason} Next: {f.next_step}")
    context.say(f"{requests.requests} requests, {requests.images} images; report in {PAGE}")


@flow(name="monitoring", validate_parameters=False, persist_result=False)
def monitoring_flow() -> None:
    """The same as a Prefect flow, for a deployment with a schedule."""
    from flows.tracking import stage_run

    with stage_run("monitoring", None) as run_id:
        monitoring(Context("monitoring", "", load_params(), Console(width=160), run_id))


def champion_standing(params: Params) -> tuple[Standing, ProvenChampion | None]:
    """Who is champion and whether its evidence verifies at this moment; the champion itself if it does."""
    name = params.promotion.model_name
    try:
        champion = load_champion(params.promotion)
    except UnprovenError as error:
        return Standing(name=name, version=error.version, exists=True, problem=str(error)), None
    except GatehouseError as error:
        return Standing(name=name, exists=False, problem=str(error)), None
    proven = champion.proven
    return Standing(
        name=name,
        version=champion.version,
        sha256=proven.sha256,
        exists=True,
        policy_in_force=not POLICY_FILE.exists() or load_policy().sha256 == proven.policy.sha256,
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


def query_extraction(champion: ProvenChampion, history: History) -> Extraction:
    """Extraction in the images that this champion answered in the window, against its signed reference."""
    reference = champion.reference().get(SKETCH, np.empty((0, LENGTH), np.int8))
    return extraction(answered_by(champion, history), reference)


def answered_by(champion: ProvenChampion, history: History) -> pd.DataFrame:
    """The images that this champion answered; what a guard refused has no answer."""
    own = history.images["model"] == champion.proven.sha256
    return history.images[own & (history.images["guard"] == "")]


if __name__ == "__main__":
    main("monitoring", monitoring)
