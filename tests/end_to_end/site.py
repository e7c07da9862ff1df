"""A project with a proven champion and the real processes that run beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from flows.server import RECORD

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 120


@dataclass
class Site:
    """A project with a proven champion, and what runs beside it."""

    root: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "GATEHOUSE_"))}
        own = {"MLFLOW_TRACKING_URI": f"sqlite:///{self.root}/mlflow.db", "PYTHONPATH": str(PROJECT)}
        return {**kept, **own, "OMP_NUM_THREADS": "1", **more}

    def start(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        log = (self.root / f"{module}.log").open("a")
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root, env=self.environment(**environment), stdout=log, stderr=log, text=True,
        )  # fmt: skip

    def output(self, module: str) -> str:
        return (self.root / f"{module}.log").read_text()

    def run(self, module: str, *arguments: str, **environment: str) -> str:
        process = self.start(module, *arguments, **environment)
        assert process.wait(PATIENCE) == 0, self.output(module)
        return self.output(module)

    def report(self) -> dict:
        return json.loads((self.root / "reports/monitoring.json").read_text())

    def prefect(self) -> str:
        return str(json.loads((self.root / RECORD).read_text())["url"])

    def flow_runs(self, flow: str) -> list[dict]:
        asked = httpx.post(f"{self.prefect()}/flow_runs/filter", json={"flows": {"name": {"any_": [flow]}}}, timeout=30)
        return list(asked.json())

    def started(self) -> list[dict]:
        """Lifecycles that an incident has started; the schedule plans others ahead."""
        return [r for r in self.flow_runs("lifecycle") if str(r["idempotency_key"]).startswith("gatehouse-")]


def wait_for(what, process: subprocess.Popen[str], site: Site, module: str):  # type: ignore[no-untyped-def]
    """What `what()` returns once it is true; errors of a server that is not up yet are no answer."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, site.output(module)
        try:
            if found := what():
                return found
        except (httpx.HTTPError, FileNotFoundError, json.JSONDecodeError, KeyError):
            pass
        time.sleep(0.1)
    pytest.fail(f"{module}: {site.output(module)}")
