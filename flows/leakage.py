"""What attacks on privacy find through each kind of answer a service may give (reports/study/leakage.json).

`python -m flows.leakage --data FOLDER`. Cells are kept in .gatehouse/study: a run that was stopped goes on where it
was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import private_page
from flows.cells import Done
from flows.leakage_cells import VERSION, TableLeakage, XrayLeakage, work
from flows.measuring import Bench, command_line, keep, start
from flows.private_xray import ARCHITECTURE, EPOCHS
from flows.stage import Context
from flows.study import ground_of, reports_of
from flows.study_cells import STORE
from tasks.backdoor.study.cells import CLEAN
from tasks.files import sha256_file
from tasks.params import load_params
from tasks.stats import over_seeds

BUDGETS, TABLE_BUDGETS = (100, 1000), (50, 500)  # queries
EPSILONS = (0.0, 4.0)  # of the network on the table; 0: no privacy


def leakage(context: Context, profile: str, workers: int) -> None:
    """Measure every model of as many seeds as the profile has, and write the table."""
    params = context.params
    ground = ground_of(context)
    recipe = load_params().student.recipe().undefended().model_copy(update={"epochs": EPOCHS}).model_dump_json()
    seeds = ground.network(ARCHITECTURE).seeds
    teachers = [ground.teacher(ARCHITECTURE, CLEAN, 0, i) for i in range(seeds)]
    privacy = params.privacy.model_dump_json()
    cells: list[XrayLeakage | TableLeakage] = []
    sample = Path(params.data.root).resolve() / "synthea"
    if (sample / "patients.csv").exists():
        digest = sha256_file(sample / "patients.csv")
        cells += [TableLeakage(digest, str(sample), e, t.seed, TABLE_BUDGETS) for e in EPSILONS for t in teachers]
    else:
        context.say(f"{sample} holds no patients.csv: the Synthea-like set is left out")
    cells += [
        XrayLeakage(t, teachers[(i + 1) % seeds], privacy, recipe, BUDGETS) for i, t in enumerate(teachers)
    ]  # fmt: skip
    bench = Bench(context, work, STORE, VERSION, workers)
    if done := bench.run(cells, "leakage"):
        keep(reports_of(profile) / "leakage.json", _table(done, profile), private_page.write_page)
    bench.close()


def _table(done: Sequence[Done], profile: str) -> dict[str, Any]:
    models: dict[str, list[Done]] = {}
    for d in done:
        models.setdefault(d.cell.model, []).append(d)
    rows = []
    for model, own in models.items():
        results = [(d.result or {})["rows"] for d in own]
        for i, first in enumerate(results[0]):
            values, baselines = ([r[i][k] for r in results] for k in ("value", "baseline"))
            rows.append(
                {
                    "model": model,
                    **{k: first[k] for k in ("attack", "answer", "figure")},
                    **over_seeds(values),
                    "values": values,
                    "baseline": over_seeds(baselines)["mean"],
                    "seeds": [d.cell.seed for d in own],
                }
            )
    return {
        "title": "What attacks on privacy find, by what the service answers",
        "command": f"python -m flows.leakage --profile {profile} --data FOLDER",
        "hardware": (done[0].result or {})["hardware"],
        "rows": rows,
    }


def main(argv: list[str] | None = None) -> None:
    options = command_line("leakage", __doc__).parse_args(argv)
    start("leakage", options, lambda context: leakage(context, options.profile, options.workers))


if __name__ == "__main__":
    main()
