"""The backdoor gate: can a small patch steer the candidate? If so, mitigate and ask again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows import ladder
from flows.ladder import parts
from flows.stage import Context, main
from tasks.backdoor import figures
from tasks.backdoor.defences.inversion import invert
from tasks.backdoor.drill import RECOVERED
from tasks.backdoor.filtering import FilterReport, measure_filter
from tasks.backdoor.judge import drill_record, thresholds
from tasks.backdoor.ladder import AS_TRAINED, Attempt, kept
from tasks.backdoor.triggers import Trigger, load_trigger
from tasks.backdoor.words import ASSUMPTIONS, LIMITS, VOID_EPSILON
from tasks.data.dataset import Dataset, load_dataset
from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.gate import GateResult, Subject
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import WEIGHTS, ModelRecord, load_model, save_model
from tasks.risk import load_policy

TRAINED = Path("models/trained")
DRILL_MODELS = Path("models/drill")
DRILL_REPORT = Path("reports/drill.json")


def backdoor(context: Context) -> None:
    """Judge models/trained/<candidate>, mitigate where that is allowed and needed, and write models/<candidate>."""
    # One thread: candidates are judged side by side, and the network is too small for threads to share.
    torch.set_num_threads(1)
    policy, drill = load_policy(), read_json(DRILL_REPORT)
    model, record = load_model(TRAINED / context.candidate)
    data = load_dataset(Path("data/student_task"))
    if record.spec.classes != data.classes:
        raise GatehouseError(
            f"{TRAINED / context.candidate} answers {', '.join(record.spec.classes)}, but data/student_task holds "
            f"{', '.join(data.classes)}; train the candidate again."
        )
    triggers = {row["name"]: load_trigger(DRILL_MODELS / f"{row['name']}.safetensors") for row in drill["canaries"]}
    original = ladder.judged_attempt(context, AS_TRAINED, model, data, triggers, policy)
    context.progress(1, 3, "candidate judged")
    attempts, mitigation = ladder.climb(context, original, data, triggers, policy)
    final = kept(attempts)
    saved = _save(context.candidate, final, record)
    context.progress(2, 3, "filter")
    strip = _filter(context, final.model, drill, triggers, data)
    reactivation = ladder.reactivations(context, model, final.model, drill, triggers, data)
    result = GateResult(
        gate="backdoor",
        candidate=context.candidate,
        subject=Subject(path=f"models/{context.candidate}/{WEIGHTS}", sha256=saved.sha256),
        policy_sha256=policy.sha256,
        checks=final.checks,
        drill=drill_record(drill["searches"], thresholds(policy)),
        assumptions=ASSUMPTIONS,
        limits=LIMITS + ((VOID_EPSILON,) if context.candidate == "private_student" else ()),
        run_id=context.run_id,
    )
    _figures(context, final, drill, strip, triggers, data)
    write_json(
        Path(f"reports/{context.name}.json"),
        _report(context, final, attempts, mitigation, saved, drill, strip, reactivation, data, result),
    )
    result.write()
    context.progress(3, 3, "report written")
    context.metrics({f"{c.name}": c.observed for c in final.checks} | {"filter.alpha": strip.alpha})
    for check in final.checks:
        context.say(check.sentence())
    context.say(f"{result.verdict}: {final.name}; {mitigation}")


def _save(candidate: str, final: Attempt, record: ModelRecord) -> ModelRecord:
    """Write models/<candidate>; without mitigation the bytes, and so the digest, are those of the trained model."""
    parents, notes = dict(record.parents), dict(record.notes)
    if final.name != AS_TRAINED:
        parents["unmitigated"] = record.sha256
        notes["mitigation"] = final.name
    return save_model(Path("models") / candidate, final.model, record.spec, parents=parents, notes=notes)


def _filter(
    context: Context, model: Classifier, drill: dict[str, Any], triggers: dict[str, Trigger], data: Dataset
) -> FilterReport:
    planted = {
        row["model"]: (load_model(Path(row["model_folder"]))[0], triggers[row["model"]])
        for row in drill["searches"]
        if row["kind"] == "canary" and row["arm"] == "undefended"
    }
    section = context.params.backdoor
    return measure_filter(
        model,
        planted,
        triggers,
        data.part("val"),
        parts(context, data)[1],
        blends=section.strip_blends,
        false_refusals=section.strip_false_refusals,
        patch_fraction=section.patch_fraction,
        seed=context.params.run.seed,
    )


def _figures(
    context: Context,
    final: Attempt,
    drill: dict[str, Any],
    strip: FilterReport,
    triggers: dict[str, Trigger],
    data: Dataset,
) -> None:
    folder = Path("reports/figures") / context.name
    images, labels = data.part("test", 64)
    figures.worst_patches(folder / "1_worst_patches.png", final.model, final.judged.found, images, labels, data.classes)
    cells = {(c["model"], c["arm"], str(c["policy"])): c for c in drill["cells"] if c["kind"] == "canary"}
    names = [c["name"] for c in drill["canaries"]]
    columns = list(dict.fromkeys((arm, policy) for _, arm, policy in cells))
    values = [[cells.get((n, *c)) for c in columns] for n in names]
    control = np.array([[v["trigger_control"]["value"] if v else np.nan for v in row] for row in values])
    accuracy = np.array([[v["accuracy"] if v else np.nan for v in row] for row in values])
    titles = [policy if arm == "defended" else f"{policy},\nundefended" for arm, policy in columns]
    figures.transfer(folder / "2_transfer.png", names, titles, control, accuracy)
    figures.entropy_histograms(folder / "3_strip.png", strip.entropies, strip.threshold, alpha=strip.alpha)
    living = [row for row in drill["searches"] if row["kind"] == "canary"]
    groups = {
        "clean references": [r for r in drill["searches"] if r["kind"] == "clean"],
        "living canaries": living,
    }
    figures.scores(
        folder / "4_scores.png",
        {k: [r["patch_control"]["value"] for r in rows] for k, rows in groups.items()},
        candidate=final.judged.patch_control["value"],
        threshold=next(c.threshold for c in final.checks if c.name == "patch_control"),
        label="patch control",
        title="The drill's models and the candidate",
    )
    if living:
        own = {f"{r['model']},\n{r['arm']}, {r['policy']}": r for r in living}
        pairs = {k: (triggers[r["model"]], load_trigger(Path(r["model_folder"]) / RECOVERED)) for k, r in own.items()}
        figures.planted_and_recovered(folder / "5_triggers.png", images[0], pairs)
    filters = strip.comparison["filters"]
    curves = {
        canary: {name: filters[name]["canaries"][canary]["roc"] for name in filters}
        for canary in next(iter(filters.values()))["canaries"]
    }
    if curves:
        figures.roc(folder / "6_filters.png", curves, false_refusals=context.params.backdoor.strip_false_refusals)


def _report(
    context: Context,
    final: Attempt,
    attempts: list[Attempt],
    mitigation: str,
    saved: ModelRecord,
    drill: dict[str, Any],
    strip: FilterReport,
    reactivation: dict[str, Any],
    data: Dataset,
    result: GateResult,
) -> dict[str, Any]:
    section, seed = context.params.backdoor, context.params.run.seed
    inverted = invert(
        final.model,
        parts(context, data)[0],
        final.judged.found,
        steps=section.search_steps // 2,
        seed=seed,
    )
    clean = [
        {"model": r["model"], "policy": r["policy"], "patch_control": r["patch_control"]}
        for r in drill["searches"]
        if r["kind"] == "clean"
    ]
    return {
        "candidate": context.candidate,
        "sha256": saved.sha256,
        "classes": list(data.classes),
        "verdict": result.verdict,
        "final": final.name,
        "mitigation": mitigation,
        "attempts": [
            {"name": a.name, "passes": a.passes, "checks": {c.name: c.status for c in a.checks}, "note": a.note}
            | a.judged.as_json()
            for a in attempts
        ],
        "inversion": {
            "smallest_sides": list(inverted.sides),
            "smallest_side": inverted.smallest,
            "works": inverted.works,
        },
        "natural_patch_control": clean,
        "drill": result.model_dump(mode="json")["drill"],
        "strip": strip.figures,
        "input_filters": strip.comparison,
        "reactivation": reactivation,
    }


if __name__ == "__main__":
    main("backdoor", backdoor, per_candidate=True)
