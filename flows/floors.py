"""Both sides of ε: what an audit refutes beside what is proven, over many seeds (reports/study/floor_ceiling.json).

`python -m flows.floors --data FOLDER`. Cells are kept in .gatehouse/private: a run that was stopped goes on where it
was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import private_page
from flows.cells import Done
from flows.floor_cells import VERSION, SyntheaFloor, XrayFloor, work
from flows.measuring import Bench, command_line, keep, start
from flows.private_study import STORE
from flows.private_xray import ARCHITECTURE
from flows.stage import Context
from flows.study import ground_of, reports_of
from tasks.backdoor.study.cells import CLEAN
from tasks.errors import GatehouseError
from tasks.files import sha256_file
from tasks.stats import over_seeds

SEEDS = tuple(range(7, 27))
SYNTHEA, XRAY = (1.0, 4.0, 8.0), (3.0, 8.0)  # proven ε of the trainings
NETWORKS, XRAY_NETWORKS = 100, 50  # trainings that one audit pools


def floors(context: Context, profile: str, workers: int) -> None:
    """Audit every training and write the table; GatehouseError where a floor lies above its ceiling too often."""
    params = context.params
    ground = ground_of(context)
    sample = Path(params.data.root).resolve() / "synthea"
    cells: list[SyntheaFloor | XrayFloor] = []
    if (sample / "patients.csv").exists():
        digest = sha256_file(sample / "patients.csv")
        cells += [SyntheaFloor(digest, str(sample), e, SEEDS, NETWORKS) for e in SYNTHEA]
    else:
        context.say(f"{sample} holds no patients.csv: the Synthea-like set is left out")
    teacher, section = ground.teacher(ARCHITECTURE, CLEAN, 0, 0), params.privacy.model_dump_json()
    cells += [XrayFloor(teacher, section, e, SEEDS, XRAY_NETWORKS) for e in XRAY]
    bench = Bench(context, work, STORE, VERSION, workers)
    if done := bench.run(cells, "audits"):
        table = _table(done, profile)
        keep(reports_of(profile) / "floor_ceiling.json", table, private_page.write_page)
        if broken := [r["model"] for r in table["rows"] if not r["holds"]]:
            raise GatehouseError(f"A measured floor lies above the proven ε: {', '.join(broken)}. The proof is wrong.")
    bench.close()


def _table(done: Sequence[Done], profile: str) -> dict[str, Any]:
    rows = []
    for d in done:
        own = d.result or {}
        rows.append(
            {
                "model": d.cell.name,
                **own,
                **over_seeds(own["floors"]),
                "largest": max(own["floors"]),
                "above_zero": sum(f > 0 for f in own["floors"]),
                "holds": max(own["floors"]) <= own["epsilon"],
                "seeds": list(d.cell.seeds),
                "networks": d.cell.networks,
                "cpu_seconds": round(d.cpu_seconds, 1),
            }
        )
    return {
        "title": "Measured floor and proven ceiling of ε, 95 % confidence for each floor",
        "method": "wrongly labelled canaries, in or out by the toss of a coin, guessed from the answers (Steinke 2023)",
        "command": f"python -m flows.floors --profile {profile} --data FOLDER",
        "rows": rows,
    }


def main(argv: list[str] | None = None) -> None:
    options = command_line("floors", __doc__).parse_args(argv)
    start("floors", options, lambda context: floors(context, options.profile, options.workers))


if __name__ == "__main__":
    main()
