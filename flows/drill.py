"""Backdoors of our own are planted in copies of the teacher and followed into students, for every freeze policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import torch

from flows.stage import Context, main
from tasks.backdoor.choice import Choice, choose_policy
from tasks.backdoor.drill import RECOVERED, TOOK, Canary, plan_canaries
from tasks.backdoor.rehearsal import (
    UNDEFENDED,
    Arm,
    Ground,
    Run,
    judge_reference,
    rehearse_canary,
    rehearse_reference,
    search_canary,
)
from tasks.backdoor.triggers import save_trigger
from tasks.data.dataset import load_dataset
from tasks.files import write_json, writing
from tasks.models.checkpoints import load_model, save_model
from tasks.params import FreezePolicy, Params
from tasks.risk import load_policy

TEACHER = Path("models/teacher")
MODELS = Path("models/drill")
REPORT = Path("reports/drill.json")
VALIDATION_IMAGES = 150
FEW_HELD_OUT = 200
# Large sets of the teacher's are sampled. Students are judged on all test images, as the gate judges the candidate: on
# fewer, wider intervals would accuse clean students of what the gate would let pass.
TEACHER_IMAGES = 2000
TEACHER_HELD_OUT = 600
T = TypeVar("T")


def drill(context: Context) -> None:
    """Plant canaries, train their students under every freeze policy, choose one, and try the gate's search on them."""
    started = time.monotonic()
    params = context.params
    # Units of work run side by side, each on one thread: faster than many threads on one small network, and the
    # figures do not depend on how many run at once.
    torch.set_num_threads(1)
    ground = _ground(params)
    planned = _planned(ground, params)
    fresh = params.drill.reference_start == "fresh"
    seeds = {f"clean{i}": params.run.seed + 7919 * (i + 1) for i in range(params.drill.clean_references)}

    jobs: dict[str, Callable[[], Run]] = {}
    for c in planned:
        jobs[c.name] = lambda c=c: rehearse_canary(ground, c)  # type: ignore[misc]
    for name, seed in seeds.items():
        jobs[name] = lambda n=name, s=seed: rehearse_reference(  # type: ignore[misc]
            ground, n, fresh=fresh, epochs=params.drill.reference_epochs, seed=s
        )
    runs = _side_by_side(context, jobs, "teachers and their students trained")
    canaries = [runs[c.name] for c in planned]
    cells = [cell for run in canaries for cell in run.cells]
    choice = choose_policy(cells, ground.teacher, accuracy_tolerance=params.drill.accuracy_tolerance)
    used: FreezePolicy = choice.policy if params.student.freeze == "drill" else params.student.freeze
    context.say(f"freeze policy {choice.policy}: {choice.reason}")

    searches = _search(context, ground, runs, seeds, used)
    with writing(MODELS) as folder:
        folder.mkdir(parents=True)
        _save(folder, ground, runs, searches)
    write_json(REPORT, _report(ground, runs, choice, used, searches, fresh=fresh))
    _tell(context, runs, searches, time.monotonic() - started)


def _ground(params: Params) -> Ground:
    teacher, record = load_model(TEACHER)
    teacher_task, student_task = load_dataset(Path("data/teacher_task")), load_dataset(Path("data/student_task"))
    # Adversarial training would take a second pass an image; what is drilled is what is done against backdoors.
    recipe = params.student.recipe().against_backdoors()
    fixed = params.student.freeze
    policies = dict.fromkeys([*params.drill.policies, *([] if fixed == "drill" else [fixed])])
    seed = params.run.seed
    return Ground(
        teacher=teacher,
        spec=record.spec,
        classes=student_task.classes,
        teacher_train=teacher_task.part("train", TEACHER_IMAGES, seed),
        teacher_val=teacher_task.part("val", TEACHER_HELD_OUT, seed),
        teacher_test=teacher_task.part("test", TEACHER_HELD_OUT, seed),
        train=student_task.part("train", params.drill.student_images, seed),
        val=student_task.part("val", VALIDATION_IMAGES, seed),
        search=student_task.part("val", params.backdoor.search_images, seed),
        test=student_task.part("test"),
        few=student_task.part("test", FEW_HELD_OUT, seed),
        recipe=recipe.model_copy(update={"epochs": params.drill.student_epochs}),
        plain=recipe.undefended(),
        policies=tuple(policies),
        limit=load_policy().threshold("backdoor", "trigger_control"),
        section=params.backdoor,
        seed=seed,
    )


def _planned(ground: Ground, params: Params) -> list[Canary]:
    return plan_canaries(
        params.drill.canaries,
        ground.teacher_train[0],
        trigger_fraction=params.drill.trigger_fraction,
        poison_rate=params.drill.poison_rate,
        epochs=params.drill.teacher_epochs,
        classes=len(ground.spec.classes),
        seed=ground.seed,
    )


def _side_by_side(context: Context, jobs: dict[str, Callable[[], T]], text: str) -> dict[str, T]:
    """Run the jobs, as many at once as params.yaml allows threads; results come in the order of the jobs."""
    with ThreadPoolExecutor(max_workers=context.params.run.threads) as pool:
        futures = {pool.submit(job): name for name, job in jobs.items()}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                context.progress(done, len(jobs), f"{text}: {futures[future]}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return {name: future.result() for future, name in futures.items()}


def _search(
    context: Context, ground: Ground, runs: dict[str, Run], seeds: dict[str, int], used: FreezePolicy
) -> list[dict[str, Any]]:
    """The gate's search on references and living canaries."""
    triggers = {name: run.canary.trigger for name, run in runs.items() if run.canary}
    jobs: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, seed in seeds.items():
        jobs[name] = lambda n=name, s=seed: judge_reference(ground, runs[n], used, triggers, seed=s)  # type: ignore[misc]
    for name in triggers:
        for arm in _living(runs[name], used, ground.limit):
            jobs[f"{name} {arm[0]}"] = lambda n=name, a=arm: search_canary(ground, runs[n], a)  # type: ignore[misc]
    return list(_side_by_side(context, jobs, "searched for patches").values())


def _living(run: Run, used: FreezePolicy, limit: float) -> Iterable[Arm]:
    """Students in which the canary's own trigger still works; where training removed it there is nothing to catch."""
    arms: list[Arm] = [UNDEFENDED, ("defended", used)]
    return [arm for arm in arms if run.cell(arm).control.value > limit]


def _save(folder: Path, ground: Ground, runs: dict[str, Run], searches: list[dict[str, Any]]) -> None:
    """Triggers of all canaries, and the students that were searched, which the gate's filter goes on to use."""
    spec = ground.spec.model_copy(update={"classes": ground.classes})
    for name, run in runs.items():
        if run.canary:
            save_trigger(folder / f"{name}.safetensors", run.canary.trigger)
            for (arm, policy), found in run.recovered.items():
                save_trigger(folder / f"{name}_{arm}_{policy}" / RECOVERED, found)
    for row in searches:
        own = f"{row['model']}_{row['arm']}_{row['policy']}"
        model = runs[row["model"]].students[(row["arm"], row["policy"])]
        save_model(folder / own, model, spec, notes={"kind": row["kind"]})
        row["model_folder"] = str(MODELS / own)


def _report(
    ground: Ground,
    runs: dict[str, Run],
    choice: Choice,
    used: FreezePolicy,
    searches: list[dict[str, Any]],
    *,
    fresh: bool,
) -> dict[str, Any]:
    return {
        "canaries": [_canary(ground, run, run.canary) for run in runs.values() if run.canary],
        "references": [
            {"name": n, "start": "fresh" if fresh else "teacher", "teacher_clean_accuracy": round(r.accuracy, 6)}
            for n, r in runs.items()
            if not r.canary
        ],
        "cells": [cell.as_json() for run in runs.values() for cell in run.cells],
        "freeze": {
            "policy": choice.policy,
            "reason": choice.reason,
            "used": used,
            "table": [row.as_json() for row in choice.table],
        },
        "searches": searches,
        "student_training": {"epochs": ground.recipe.epochs, "images": len(ground.train[1])},
        "held_out_images": len(ground.test[1]),
    }


def _canary(ground: Ground, run: Run, canary: Canary) -> dict[str, Any]:
    return {
        "name": canary.name,
        "corner": canary.corner,
        "pattern": canary.pattern,
        "side": canary.trigger.pattern.shape[-1],
        "target": ground.spec.classes[canary.target_class],
        "poison_rate": canary.poison_rate,
        "epochs": canary.epochs,
        "teacher_success": round(run.success, 6),
        "teacher_clean_accuracy": round(run.accuracy, 6),
        "took": run.success >= TOOK,
        "attempts": run.attempts,
        "trigger_file": f"{MODELS / canary.name}.safetensors",
    }


def _tell(context: Context, runs: dict[str, Run], searches: list[dict[str, Any]], seconds: float) -> None:
    living = sum(row["kind"] == "canary" for row in searches)
    clean = [row["patch_control"]["value"] for row in searches if row["kind"] == "clean"]
    context.say(
        f"{living} canary students keep their backdoor; natural patch control of clean references "
        f"{', '.join(f'{v:.2f}' for v in clean)}; {seconds:.0f} s"
    )
    figures: dict[str, float | None] = {"seconds": seconds}
    for cell in (cell for run in runs.values() for cell in run.cells):
        figures[f"{cell.model}.{cell.arm}.{cell.policy}.accuracy"] = cell.accuracy
        if cell.kind == "canary":
            figures[f"{cell.model}.{cell.arm}.{cell.policy}.trigger_control"] = cell.control.value
    context.metrics(figures)


if __name__ == "__main__":
    main("drill", drill)
