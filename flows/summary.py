"""What a run leaves to be read first: reports/summary.json, and the tables at the end of the terminal's output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.gate import GATES_FOLDER, GateResult
from tasks.risk import POLICY_FILE, load_policy

SUMMARY = Path("reports/summary.json")
PROMOTION = Path("reports/promotion.json")
DOSSIER = Path("reports/dossier.html")
COLOURS = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


def collect(stages: list[dict[str, Any]], profile: str, seconds: float) -> dict[str, Any]:
    """Stages, gates and the promotion of the run that has just ended, JSON-ready."""
    complete = all(s["state"] not in ("failed", "not reached") for s in stages)
    promotion: dict[str, Any] = {"decision": "none", "version": None, "reasons": []}
    if complete:
        promotion = read_json(PROMOTION)
    return {
        "profile": profile,
        "seconds": round(seconds, 1),
        "stages": [{**s, "skipped": s["state"] == "skipped"} for s in stages],
        "gates": _gates(),
        "promotion": promotion,
        "dossier": str(DOSSIER),
    }


def _gates() -> list[dict[str, Any]]:
    """Every gate result that is there, required or not; one that does not read is reported as inconclusive."""
    if not POLICY_FILE.exists():
        return []
    policy = load_policy()
    rows = []
    for path in sorted(GATES_FOLDER.glob("*.json")):
        gate, _, candidate = path.stem.partition("@")
        row: dict[str, Any] = {"gate": gate, "candidate": candidate, "required": gate in policy.required()}
        if candidate in ("student", "private_student") and candidate != policy.candidate:
            row["required"] = False
        try:
            result = GateResult.read(path)
        except GatehouseError as error:
            rows.append({**row, "verdict": "inconclusive", "checks": [str(error)]})
            continue
        rows.append({**row, "verdict": result.verdict, "checks": [c.sentence() for c in result.checks]})
    return rows


def write(result: dict[str, Any]) -> None:
    write_json(SUMMARY, result)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables of stages and gates, the decision with its reasons, and the dossier's path."""
    stages = Table(title="Stages", box=box.SIMPLE_HEAD, title_justify="left")
    stages.add_column("stage")
    stages.add_column("state")
    stages.add_column("seconds", justify="right")
    for s in result["stages"]:
        colour = "red" if s["state"] == "failed" else "dim" if s["state"] in ("skipped", "not reached") else ""
        stages.add_row(s["name"], s["state"], f"{s['seconds']:.1f}" if s["seconds"] else "", style=colour)
    console.print(stages)

    gates = Table(title="Gates", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("gate", "of", "verdict", "required"):
        gates.add_column(name)
    for g in result["gates"]:
        verdict = f"[{COLOURS[g['verdict']]}]{g['verdict']}"
        gates.add_row(g["gate"], g["candidate"], verdict, "yes" if g["required"] else "no")
    console.print(gates)

    for s in result["stages"]:
        if s["error"]:
            console.print(f"[bold red]{s['name']}:[/] {s['error']}", highlight=False, soft_wrap=True)
    promotion = result["promotion"]
    if promotion["decision"] == "promoted":
        console.print(
            f"[bold green]Promoted:[/] {promotion['candidate']} is champion, version {promotion['version']}, "
            f"sha256 {promotion['sha256'][:12]}…",
            highlight=False,
        )
    elif promotion["decision"] != "none":
        console.print(f"[bold red]{promotion['decision'].capitalize()}:[/] no alias was given.", highlight=False)
        for reason in promotion["reasons"]:
            console.print(f"  • {reason['sentence']}", highlight=False, markup=False, soft_wrap=True)
            if reason.get("next_step"):
                console.print(f"    next: {reason['next_step']}", highlight=False, markup=False, soft_wrap=True)
    if promotion["decision"] != "none":
        console.print(f"Dossier: {Path(result['dossier']).resolve()}", highlight=False, soft_wrap=True)
    console.print(f"{result['seconds']:.0f} s; {SUMMARY} holds this as JSON", highlight=False)
