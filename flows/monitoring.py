"""Look after what is deployed: `python -m flows.monitoring`, or on a schedule (`flows/schedule.py`).

Not a stage of dvc.yaml: it judges the requests of the last hours, which no dependency could name.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from prefect import flow
from rich.console import Console

from flows.stage import Context, main
from tasks.data.dataset import MANIFEST, Dataset, load_dataset
from tasks.errors import GatehouseError
from tasks.files import write_json, write_text
from tasks.models.inference import as_float, probabilities
from tasks.monitoring.drift import Drift, compare
from tasks.monitoring.findings import Standing, findings
from tasks.monitoring.page import render
from tasks.monitoring.requests import HOUR, request_statistics
from tasks.params import Params, load_params
from tasks.risk import POLICY_FILE, load_policy
from tasks.serving.log import History, read_history
from tasks.serving.statistics import STATISTICS, image_statistics

if TYPE_CHECKING:
    from tasks.models.architectures import Classifier
    from tasks.promotion.evidence import Proven

STUDENT_TASK = Path("data/student_task")
REPORT = Path("reports/monitoring.json")
PAGE = Path("reports/monitoring.html")


def monitoring(context: Context) -> None:
    """Write reports/monitoring.json and .html: requests, input drift, and whether the champion is still proven."""
    params = context.params
    window = params.monitoring.window_hours
    data = load_dataset(STUDENT_TASK) if (STUDENT_TASK / MANIFEST).exists() else None
    standing, model = champion_standing(params, data)
    history = read_history(Path(params.serving.log), since=time.time() - window * HOUR)
    requests = request_statistics(history.requests, history.images, window_hours=window)
    drift = input_drift(params, data, model, standing, history) if data else None
    found = findings(
        standing,
        requests,
        drift,
        dropped=history.dropped,
        infrequent=not params.risk.c3_frequent_queries,
        frequent_images_per_hour=params.monitoring.frequent_images_per_hour,
    )
    report = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": found[0].severity if found and found[0].severity != "info" else "ok",
        "champion": standing.model_dump(mode="json"),
        "requests": requests.model_dump(mode="json"),
        "dropped": history.dropped,
        "drift": drift.model_dump(mode="json") if drift else None,
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


def champion_standing(params: Params, data: Dataset | None) -> tuple[Standing, Classifier | None]:
    """Who is champion, whether its evidence verifies at this moment, and the model if it does."""
    from flows.registry import champion_folder
    from tasks.promotion.evidence import load_proven
    from tasks.promotion.keys import public_key_path, read_public_key

    name = params.promotion.model_name
    try:
        folder, version = champion_folder(name)
    except GatehouseError as error:
        return Standing(name=name, exists=False, problem=str(error)), None
    try:
        key = read_public_key(public_key_path(params.promotion.signing_key))
        model, proven = load_proven(folder, public_key=key)
    except GatehouseError as error:
        return Standing(name=name, version=version, exists=True, problem=str(error)), None
    standing = Standing(
        name=name,
        version=version,
        sha256=proven.sha256,
        exists=True,
        policy_in_force=not POLICY_FILE.exists() or load_policy().sha256 == proven.policy.sha256,
        reference_is_training_data=data is None or _trained_on(proven, data),
    )
    return standing, model


def _trained_on(proven: Proven, data: Dataset) -> bool:
    return proven.record.parents.get("student_task") == data.sha256


def input_drift(params: Params, data: Dataset, model: Classifier | None, standing: Standing, history: History) -> Drift:
    """Drift of the window's images; score and label take part where a proven champion answered."""
    limit, seed = params.monitoring.reference_images, params.run.seed
    images = history.images if model is None else history.images[history.images["model"] == standing.sha256]
    figures = image_statistics(as_float(data.part("train", limit, seed)[0]).numpy())
    reference = {name: np.round(figures[:, i], 6) for i, name in enumerate(STATISTICS)}
    current = {name: images[name].to_numpy(float) for name in STATISTICS}
    if model is not None:
        # Test images, not training images: on those the model is surer of itself than on anything it will meet.
        scores = probabilities(model, data.part("test", limit, seed)[0]).numpy().astype(float)
        reference["confidence"] = np.round(scores.max(1), 2)
        reference["label"] = np.array(data.classes)[scores.argmax(1)]
        current["confidence"] = images["score"].to_numpy(float)
        current["label"] = images["label"].to_numpy(str)
    return compare(reference, current, allowed_share=params.monitoring.drift_share)


if __name__ == "__main__":
    main("monitoring", monitoring)
