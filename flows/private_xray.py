"""What privacy costs and brings on X-rays: heads on frozen features at two ε beside students without any.

`python -m flows.private_xray --data FOLDER` (reports/study/private_xray.json). Teachers are those of the study; cells
are kept in .gatehouse/study: a run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows import private_page
from flows.cells import Done
from flows.measuring import Bench, command_line, keep, start
from flows.private_xray_cells import VERSION, HeadRates, PrivateHeads, work
from flows.stage import Context
from flows.study import prepare_data, reports_of
from flows.study_cells import STORE
from tasks.backdoor.study.cells import CLEAN
from tasks.backdoor.study.plan import Ground
from tasks.params import load_params
from tasks.stats import over_seeds

ARCHITECTURE, EPSILONS, EPOCHS = "simple_cnn", (8.0, 3.0), 12
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the learning rate
MEASURES = ("accuracy", "balanced_accuracy")


def private_xray(context: Context, profile: str, workers: int) -> None:
    """Measure the students of as many teachers as the profile has seeds, and write the table."""
    params = context.params
    ground = Ground(prepare_data(context), params.data.image_size, params.run.seed, params.study)
    recipe = load_params().student.recipe().undefended().model_copy(update={"epochs": EPOCHS})
    cells = [
        PrivateHeads(
            ground.teacher(ARCHITECTURE, CLEAN, 0, i), EPSILONS, params.privacy.model_dump_json(),
            recipe.model_dump_json(),
        )
        for i in range(ground.network(ARCHITECTURE).seeds)
    ]  # fmt: skip
    bench = Bench(context, work, STORE, VERSION, workers)
    if done := bench.run(cells, "private heads"):
        rates = bench.run(
            [HeadRates(c.teacher, e, c.privacy, FACTORS) for e in EPSILONS for c in cells], "learning rates"
        )
        table = _table(done, profile, ground.image_size) | {"learning_rates": _rates(rates)}
        keep(reports_of(profile) / "private_xray.json", table, private_page.write_page)
    bench.close()


def _table(done: Sequence[Done], profile: str, image_size: int) -> dict[str, Any]:
    results = [d.result for d in done if d.result]
    rows = []
    for i, first in enumerate(results[0]["rows"]):
        own = [r["rows"][i] for r in results]
        proven = {k: first[k] for k in ("epsilon", "delta", "noise_multiplier", "advantage_ceiling") if k in first}
        rows.append(
            {
                "model": first["model"],
                **proven,
                **{m: over_seeds([r[m] for r in own]) for m in MEASURES},
                "membership_advantage": over_seeds([_strongest(r)["membership_advantage"]["value"] for r in own]),
                "attacks": {
                    name: {
                        "membership_advantage": over_seeds(
                            [r["attacks"][name]["membership_advantage"]["value"] for r in own]
                        ),
                        "auc": over_seeds([r["attacks"][name]["auc"] for r in own]),
                        "tpr_at_1_fpr": over_seeds([r["attacks"][name]["tpr_at_1_fpr"] for r in own]),
                    }
                    for name in first["attacks"]
                },
                "seeds": [d.cell.teacher.seed for d in done],
            }
        )
    return {
        "title": "Students of clean teachers on the X-rays, with and without privacy, and what attacks find",
        "command": f"python -m flows.private_xray --profile {profile} --data FOLDER",
        "architecture": ARCHITECTURE,
        "image_size": image_size,
        "records": results[0]["records"],
        "hardware": results[0]["hardware"],
        "cpu_seconds": round(sum(d.cpu_seconds for d in done), 1),
        "rows": rows,
    }


def _rates(done: Sequence[Done]) -> list[dict[str, Any]]:
    """A row an ε and factor: what tuning the learning rate could gain over the one in params.yaml."""
    rows = []
    for target in EPSILONS:
        own = [d.result for d in done if d.cell.epsilon == target and d.result]
        for i, factor in enumerate(FACTORS if own else ()):
            rows.append(
                {
                    "epsilon": target,
                    "factor": factor,
                    **{f"balanced_accuracy_{part}": over_seeds([r[part][i] for r in own]) for part in ("val", "test")},
                }
            )
    return rows


def _strongest(row: dict[str, Any]) -> dict[str, Any]:
    return row["attacks"][row["strongest"]]


def main(argv: list[str] | None = None) -> None:
    options = command_line("private_xray", __doc__).parse_args(argv)
    start("private_xray", options, lambda context: private_xray(context, options.profile, options.workers))


if __name__ == "__main__":
    main()
