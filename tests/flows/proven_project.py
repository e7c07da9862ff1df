"""A project folder with a champion in its registry: a tiny untrained model, results made by hand, real evidence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tasks" / "promotion"))

from promotion_case import Case, make_case, risk

from flows import registry, rulings
from flows.server import free_port
from tasks.files import sha256_file, write_json
from tasks.models.checkpoints import load_model
from tasks.models.inference import as_float, probabilities
from tasks.params import load_params
from tasks.promotion.evidence import ENVELOPE, attest
from tasks.serving.guards.calibration import calibrate
from tasks.serving.sketch import sketches
from tasks.serving.statistics import STATISTICS, image_statistics

PROJECT = Path(__file__).resolve().parents[2]
__all__ = ["Case", "make_case", "risk"]  # for tests beside this file, which may lack the path set above
NAME = "gatehouse-student"
SIDE = 16
SHARES = {"backdoor": 0.05, "distribution": 0.01, "disagreement": 0.01}  # of clean images that guards may refuse


@contextmanager
def inside(root: Path) -> Iterator[None]:
    """In the project's folder, with its own MLflow store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        patch.delenv("PREFECT_API_URL", raising=False)
        yield


def images(n: int, *, seed: int) -> np.ndarray:
    """Blobs on a dark ground, uint8 (n, 1, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    centre, size = rng.uniform(0.3, 0.7, (2, n, 1, 1)), rng.uniform(0.1, 0.3, (n, 1, 1))
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / size**2)
    return np.clip(40 + 150 * blob + rng.normal(0, 8, (n, SIDE, SIDE)), 0, 255).astype(np.uint8)[:, None]


def make_project(root: Path) -> Case:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["serving"].update(port=free_port(), max_request_bytes=100_000)
    params["run"]["threads"] = 1
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    case = make_case(root)
    case.key.public_key()
    keys = root / ".gatehouse" / "keys"
    keys.parent.mkdir()
    (root / "keys").rename(keys)
    promote(case, root)
    return case


def promote(case: Case, root: Path) -> str:
    """Sign a candidate with `case.key`, the project's own, register and enthrone it at `root`; returns the version."""
    attest_case(case)
    with inside(root):
        version = registry.register(NAME, case.model, case.evidence, sha256=case.record.sha256, tags={})
        enthrone(version, case.record.sha256, case.evidence)
    return version


def enthrone(version: str, sha256: str, evidence: Path) -> None:
    """What promotion does after it has registered a version: a signed decision names it, and the alias follows."""
    entry = {"decision": "promoted", "version": version, "sha256": sha256, "evidence": sha256_file(evidence / ENVELOPE)}
    rulings.record(load_params().promotion, entry)
    registry.crown(NAME, version)


def attest_case(case: Case, decided_at: datetime | None = None) -> None:
    """Sign the candidate with `case.key`, together with a reference of its answers."""
    model, record = load_model(case.model)
    reference = case.root / "reference.npz"
    kept = images(300, seed=1)
    pixels = as_float(kept).numpy()
    figures, scores = image_statistics(pixels), probabilities(model, kept).numpy()
    columns = dict(zip(STATISTICS, figures.T, strict=True))
    label = np.asarray(record.spec.classes)[scores.argmax(1)]
    np.savez(reference, allow_pickle=False, **columns, score=scores.max(1), label=label, sketch=sketches(pixels))
    guards = case.root / "guards.json"
    write_json(guards, calibrate(model, kept, on=case.policy.guarded(), false_refusals=SHARES, seed=1))
    attest(
        case.evidence,
        model_folder=case.model,
        gates_folder=case.gates,
        policy_path=case.root / "reports" / "policy.json",
        decision=case.decide(),
        key=case.key,
        extra={"params.yaml": case.root / "params.yaml", "reference.npz": reference, "guards.json": guards},
        code={},
        tools={},
        decided_at=decided_at,
    )
