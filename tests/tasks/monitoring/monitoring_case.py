"""A monitoring report made by hand: one where all is well, one with every trouble that the page can show."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.monitoring.drift import compare
from tasks.monitoring.requests import request_statistics

SHA, BAD = "ab" * 32, "cd" * 32


def a_report(*, troubled: bool) -> dict[str, Any]:
    import pandas as pd

    rng = np.random.default_rng(0)
    n, end = 600, 1_767_000_000.0
    requests = pd.DataFrame(
        {
            "time": end - rng.beta(2, 4, n) * 86_000,
            "account": rng.choice(["clinic-east", "clinic-west", "10.3.2.1"], n),
            "status": 200,
            "error": np.where(rng.random(n) < (0.25 if troubled else 0.02), "BAD_REQUEST", ""),
            "model": SHA,
            "count": 1,
            "latency_ms": rng.gamma(3, 4, n),
            "guards": np.where(rng.random(n) < (0.1 if troubled else 0.0), "backdoor", ""),
        }
    )
    images = pd.DataFrame({"sha256": [f"{i:064x}" for i in range(n)], "label": rng.choice(["covid", "normal"], n)})
    statistics = request_statistics(requests, images, window_hours=24, end=end)

    def sample(m: int, shift: float) -> dict[str, np.ndarray]:
        names = ("mean", "sd", "contrast", "edge_energy", "entropy", "score")
        return {k: rng.normal(shift * (k == "mean"), 1, m) for k in names} | {
            "label": rng.choice(["covid", "normal"], m)
        }

    drift = compare(sample(400, 0), sample(300, 0.8 if troubled else 0.0), allowed_share=0.1)
    problem = "Version 3 of 'gatehouse-student' was taken out of service: Advisory ADV-7 names its teacher."
    incident = {
        "id": "2026-05-01-a1b2c3",
        "key": "k",
        "opened_at": "2026-05-01T06:00:04+00:00",
        "about": "advisory",
        "severity": "critical",
        "reason": f"Advisory ADV-7 names the teacher honest ({BAD[:12]}) of version 3, the champion.",
        "next_step": "Run `make run`.",
        "version": "3",
        "sha256": SHA,
        "actions": ["withdraw", "lifecycle"],
        "done": {"withdraw": "version 3 was taken out of service", "lifecycle": "flow run 7e12 (quick-otter)"},
        "state": "open",
        "closed_at": "",
        "closed_by": "",
        "note": "",
    }
    gates = [("data", "student_task"), ("provenance", "teacher"), ("backdoor", "student"), ("adversarial", "student")]
    match = {"advisory": "ADV-7", "text": "Backdoored.", "severity": "critical", "sha256": BAD, "kind": "teacher"}
    assets = [
        ("code", "git revision", "9" * 40, {"state": "clean"}),
        ("data", "student task", "1" * 64, {}),
        ("model", "student", SHA, {"file": "model.safetensors"}),
        ("parameters", "params.yaml", "2" * 64, {}),
        ("teacher", "honest", BAD, {"card": "honest", "provider": "University hospital", "licence": "Apache-2.0"}),
    ]
    return {
        "created_at": "2026-05-01T06:00:07+00:00",
        "state": "critical" if troubled else "ok",
        "champion": {
            "name": "gatehouse-student",
            "version": "3",
            "sha256": SHA,
            "exists": True,
            "problem": problem if troubled else "",
            "withdrawn": troubled,
            "since": "2026-04-27T07:31:00+00:00",
            "policy_in_force": True,
        },
        "gates": [{"gate": g, "candidate": c, "verdict": "passed", "required": True} for g, c in gates],
        "requests": statistics.model_dump(mode="json"),
        "dropped": 0,
        "drift": drift.model_dump(mode="json"),
        "feed": {
            "source": "https://advisories.example/feed.json",
            "believed": "offered",
            "issued_at": "2026-04-30T12:00:00+00:00",
            "age_days": 0.75,
            "advisories": 12,
            "problem": "",
            "refused": False,
        },
        "advisories": [{**match, "name": "honest", "version": "3", "status": "withdrawn"}] if troubled else [],
        "incidents": [incident] if troubled else [],
        "assets": {
            "schema_version": 1,
            "created_at": "",
            "model_name": "gatehouse-student",
            "versions": [
                {
                    "version": "3",
                    "sha256": SHA,
                    "status": "withdrawn" if troubled else "champion",
                    "decided_at": "",
                    "problem": "",
                }
            ],
            "assets": [
                {
                    "kind": k,
                    "name": n,
                    "algorithm": "gitCommit" if k == "code" else "sha256",
                    "digest": d,
                    "about": a,
                    "signed": True,
                    "versions": ["3"],
                }
                for k, n, d, a in assets
            ],
        },
        "findings": [
            {
                "severity": "critical",
                "about": "advisory",
                "reason": incident["reason"],
                "next_step": "Run `make run`, with another teacher.",
                "cause": "advisory",
                "key": "k",
            },
            {
                "severity": "warning",
                "about": "drift",
                "reason": "The input drifted: 1 of 7 statistics moved (mean).",
                "next_step": "Look at the figures.",
                "cause": "drift",
                "key": "drift",
            },
        ]
        if troubled
        else [],
    }
