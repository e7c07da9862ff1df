"""Gray-box attacks through the teacher, by freeze policy and budget (reports/study/graybox.json, fingerprint.json).

`python -m flows.gray_box --data FOLDER`. Cells are kept in .gatehouse/study beside those of the study, whose clean
teachers and students these are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from flows import adversarial_page
from flows.cells import Done
from flows.gray_box_cells import VERSION, Attacked, Named, PublicAttacked, work
from flows.measuring import Bench, command_line, keep, start
from flows.stage import Context
from flows.study import ground_of, reports_of
from flows.study_cells import STORE
from tasks.backdoor.study.cells import CLEAN, StudentCell
from tasks.backdoor.study.plan import TRAINABLE
from tasks.evasion.sample import as_255
from tasks.stats import over_seeds, pooled, proportion

BUDGETS = (2 / 255, 4 / 255, 8 / 255)
IMAGES, OWN, STEPS = 300, 90, 20
CANDIDATES, PROBES = 8, 8
ARCHITECTURE, PUBLIC = "simple_cnn", "efficientnet_lite0"
PUBLIC_SIZES = {"train_images": 2500, "epochs": 8, "images": 100, "own": 60, "steps": 15}


def gray_box(context: Context, options: argparse.Namespace) -> None:
    """Attack clean teachers' students under every freeze policy, and ask each who its teacher is."""
    params = context.params
    ground = ground_of(context)
    bench = Bench(context, work, STORE, VERSION, options.workers)
    teachers = [ground.teacher(ARCHITECTURE, CLEAN, 0, i) for i in range(CANDIDATES)]
    command = f"python -m flows.gray_box --profile {options.profile} --data FOLDER"
    folder = reports_of(options.profile)
    seeds = ground.network(ARCHITECTURE).seeds
    attacked = [
        Attacked(ground.student(t, trainable), BUDGETS, STEPS, IMAGES, OWN)
        for t in teachers[:seeds]
        for trainable in TRAINABLE
    ]
    done = bench.run(attacked, "gray box")
    rows = _rows(done, ARCHITECTURE)
    if not options.without_public:
        public = [
            PublicAttacked(ground.data, ground.image_size, params.run.seed, trainable, budgets=BUDGETS, **PUBLIC_SIZES)
            for trainable in TRAINABLE
        ]
        rows += _rows(bench.run(public, "public teacher"), PUBLIC)
    title = "Success of attacks through the teacher on its students, of the images that they get right"
    table = {"title": title, "command": command, "steps": STEPS, "attackers_images": OWN, "public": PUBLIC_SIZES}
    keep(folder / "graybox.json", table | {"image_size": ground.image_size, "rows": rows}, adversarial_page.write_page)
    asked = [Named(ground.student(t, p), tuple(teachers), PROBES) for t in teachers for p in TRAINABLE]
    named = bench.run(asked, "fingerprint")
    named_rightly = _fingerprints(named, command) | {"image_size": ground.image_size}
    keep(folder / "fingerprint.json", named_rightly, adversarial_page.write_page)
    bench.close()


def _rows(done: Sequence[Done], architecture: str) -> list[dict[str, Any]]:
    """A row a freeze policy, attack and budget: mean and spread over seeds, and the interval over all their images."""
    rows = []
    for trainable in TRAINABLE:
        own = [(d, d.result) for d in done if _student(d.cell).trainable == trainable and d.result]
        if not own:
            continue
        for attack in own[0][1]["success"]:
            for i, eps in enumerate(BUDGETS):
                found = [result["success"][attack][i] for _, result in own]
                rows.append(
                    {
                        "architecture": architecture,
                        "trainable": trainable,
                        "attack": attack,
                        "budget": as_255(eps),
                        **pooled(found),
                        "values": [f["value"] for f in found],
                        "seeds": [_seed(d.cell) for d, _ in own],
                        "student_accuracy": over_seeds([result["balanced_accuracy"] for _, result in own]),
                        "hardware": own[0][1]["hardware"],
                    }
                )
    return rows


def _student(cell: Attacked | PublicAttacked) -> StudentCell | PublicAttacked:
    return cell.student if isinstance(cell, Attacked) else cell


def _seed(cell: Attacked | PublicAttacked) -> int:
    return cell.student.teacher.seed if isinstance(cell, Attacked) else cell.seed


def _fingerprints(done: Sequence[Done], command: str) -> dict[str, Any]:
    rows = []
    for trainable in TRAINABLE:
        own = [(d, d.result) for d in done if d.cell.student.trainable == trainable and d.result]
        if not own:
            continue
        right = sum(result["right"] for _, result in own)
        confusion = [
            {"teacher": d.cell.student.teacher.name, "named": result["named"], "dispersions": result["dispersions"]}
            for d, result in own
        ]
        rows.append(
            {
                "architecture": ARCHITECTURE, "trainable": trainable, "students": len(own), "right": right,
                **proportion(right, len(own)),
                "candidates": CANDIDATES, "queries": CANDIDATES * PROBES, "confusion": confusion,
                "hardware": own[0][1]["hardware"],
            }
        )  # fmt: skip
    return {"title": "Teachers named from their students' answers alone", "command": command, "rows": rows}


def main(argv: list[str] | None = None) -> None:
    parser = command_line("gray_box", __doc__)
    parser.add_argument("--without-public", action="store_true", help="leave EfficientNet-Lite0 out")
    options = parser.parse_args(argv)
    start("gray_box", options, lambda context: gray_box(context, options))


if __name__ == "__main__":
    main()
