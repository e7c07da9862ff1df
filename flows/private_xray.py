"""What privacy costs and brings on X-rays: private heads and whole networks at two ε beside students without any.

`python -m flows.private_xray --data FOLDER` (reports/study/private_xray.json). Teachers are those of the study; cells
are kept in .gatehouse/study: a run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows import private_page
from flows.cells import Done
from flows.measuring import Bench, command_line, keep, start
from flows.private_xray_cells import VERSION, HeadRates, PrivateHeads, PrivateNetwork, work
from flows.stage import Context
from flows.study import ground_of, reports_of
from flows.study_cells import STORE
from tasks.backdoor.study.cells import CLEAN
from tasks.params import load_params
from tasks.stats import over_seeds

ARCHITECTURE, EPSILONS, EPOCHS = "simple_cnn", (8.0, 3.0), 12
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the learning rate
# Of the network that is trained whole by DP-SGD.
NETWORK: dict[str, Any] = {"width": 8, "batch_size": 512, "learning_rate": 0.5, "epochs": 12}
MEASURES = ("accuracy", "balanced_accuracy")


def private_xray(context: Context, profile: str, workers: int) -> None:
    """Measure the students of as many teachers as the profile has seeds, and write the table."""
    params = context.params
    ground = ground_of(context)
    recipe = load_params().student.recipe().undefended().model_copy(update={"epochs": EPOCHS})
    teachers = [ground.teacher(ARCHITECTURE, CLEAN, 0, i) for i in range(ground.network(ARCHITECTURE).seeds)]
    section = params.privacy.model_dump_json()
    bench = Bench(context, work, STORE, VERSION, workers)
    groups = [bench.run([PrivateHeads(t, EPSILONS, section, recipe.model_dump_json()) for t in teachers], "heads")]
    rates = bench.run([HeadRates(t, e, section, FACTORS) for e in EPSILONS for t in teachers], "learning rates")

    def write() -> None:
        table = _table([g for g in groups if g], profile, ground.image_size) | {"learning_rates": _rates(rates)}
        keep(reports_of(profile) / "private_xray.json", table, private_page.write_page)

    write()
    for target in EPSILONS:
        groups.append(bench.run([PrivateNetwork(t, target, section, **NETWORK) for t in teachers], "whole networks"))
        write()
    bench.close()


def _table(groups: Sequence[Sequence[Done]], profile: str, image_size: int) -> dict[str, Any]:
    """Rows of every group of cells; those of one group differ in their teacher alone."""
    cells = [d for group in groups for d in group]
    first = next((d.result for d in cells if d.result), {})
    return {
        "title": "Students of clean teachers on the X-rays, with and without privacy, and what attacks find",
        "command": f"python -m flows.private_xray --profile {profile} --data FOLDER",
        "architecture": ARCHITECTURE,
        "image_size": image_size,
        "records": first.get("records"),
        "hardware": first.get("hardware"),
        "cpu_seconds": round(sum(d.cpu_seconds for d in cells), 1),
        "rows": [row for group in groups for row in _rows(group)],
    }


def _rows(done: Sequence[Done]) -> list[dict[str, Any]]:
    """A row a model, over its teachers."""
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
    return rows


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
