"""One small table of what a finished run measured, for the README: `python benchmarks/lifecycle_table.py OUT.json`.

Run it in the folder of a finished `make run`; nothing in the table is typed by hand.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import Any

from tasks.files import read_json, write_json
from tasks.gate import GATES_FOLDER, GateResult
from tasks.params import load_params

REPORTS = Path("reports")
CANDIDATES = ("student", "private_student")


def table() -> dict[str, Any]:
    """Candidates' figures with intervals, every check of every gate, the freeze table, seconds, seed and hardware."""
    params, summary = load_params(), read_json(REPORTS / "summary.json")
    command = "make run" if summary["profile"] == "default" else f"make run PROFILE={summary['profile']} DATA=FOLDER"
    return {
        "command": command,
        "seed": params.run.seed,
        "seeds": 1,
        "image_size": params.data.image_size,
        "hardware": f"{os.cpu_count()} cores {platform.machine()}, no GPU, {params.run.threads} thread(s) a stage",
        "seconds": _seconds(summary),
        "decision": summary["promotion"]["decision"],
        "reasons": [r["sentence"] for r in summary["promotion"]["reasons"]],
        "overlap_with_teacher": read_json(REPORTS / "data.json")["overlap"],
        "candidates": {name: _candidate(name) for name in CANDIDATES},
        "freeze": read_json(REPORTS / "drill.json")["freeze"],
        "gates": [_gate(path) for path in sorted(GATES_FOLDER.glob("*.json"))],
    }


def _seconds(summary: dict[str, Any]) -> dict[str, float]:
    """Of the stages that ran, and of the whole run where none was skipped because nothing had changed."""
    ran = {s["name"]: s["seconds"] for s in summary["stages"] if not s["skipped"]}
    return ran | ({"whole run": summary["seconds"]} if len(ran) == len(summary["stages"]) else {})


def _candidate(name: str) -> dict[str, Any]:
    report = read_json(REPORTS / f"{name}.json")
    kept = ("n", "accuracy", "balanced_accuracy", "auc", "calibration_error", "recall", "epsilon", "delta")
    return {k: report[k] for k in kept if k in report}


def _gate(path: Path) -> dict[str, Any]:
    result = GateResult.read(path)
    drill = result.drill.model_dump(mode="json") if result.drill else None
    checks = [c.model_dump(mode="json") | {"status": c.status} for c in result.checks]
    return {
        "gate": result.gate,
        "candidate": result.candidate,
        "verdict": result.verdict,
        "drill": drill,
        "checks": checks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    write_json(out, table())
    print(out)


if __name__ == "__main__":
    main()
