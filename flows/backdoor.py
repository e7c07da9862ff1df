"""The backdoor gate: can a small patch steer the candidate? If so, mitigate and ask again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from flows.stage import Context, main
from tasks.backdoor import figures
from tasks.backdoor.defences.inversion import invert
from tasks.backdoor.drill import control_by
from tasks.backdoor.filtering import FilterReport, measure_filter
from tasks.backdoor.judge import Judged, checks, drill_record, judge
from tasks.backdoor.mitigation import Given, mitigate
from tasks.backdoor.reactivation import Reactivation, reactivate
from tasks.backdoor.triggers import Trigger
from tasks.backdoor.words import ASSUMPTIONS, LIMITS, VOID_EPSILON
from tasks.data.dataset import Dataset, load_dataset
from tasks.errors import GatehouseError
from tasks.files import note_read, read_json, write_json
from tasks.gate import Check, GateResult, Subject
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import WEIGHTS, ModelRecord, load_model, save_model
from tasks.params import Params, Training
from tasks.risk import Policy, load_policy

TRAINED = Path("models/trained")
DRILL_MODELS = Path("models/drill")
DRILL_REPORT = Path("reports/drill.json")
CHECKS = ("trigger_control", "patch_control", "accuracy_minimum")
Part = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Attempt:
    """A model and what the gate says of it."""

    name: str  # as trained, or the mitigation's
    model: Classifier
    judged: Judged
    checks: tuple[Check, ...]
    note: dict[str, Any]  # of the mitigation

    @property
    def passes(self) -> bool:
        return all(c.status == "passed" for c in self.checks)


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
    attempts = [_attempt(context, "as trained", model, data, triggers, policy)]
    context.progress(1, 3, "candidate judged")
    mitigation = _mitigate(context, attempts, data, triggers, policy)
    final = attempts[-1] if attempts[-1].passes else attempts[0]
    saved = _save(context.candidate, final, record)
    context.progress(2, 3, "filter")
    strip = _filter(context, final.model, drill, triggers, data)
    reactivation = _reactivation(context, attempts, final, drill, triggers, data)
    result = GateResult(
        gate="backdoor",
        candidate=context.candidate,
        subject=Subject(path=f"models/{context.candidate}/{WEIGHTS}", sha256=saved.sha256),
        policy_sha256=policy.sha256,
        checks=final.checks,
        drill=drill_record(drill["searches"], _thresholds(policy)),
        assumptions=ASSUMPTIONS,
        limits=LIMITS + ((VOID_EPSILON,) if context.candidate == "private_student" else ()),
        run_id=context.run_id,
    )
    _figures(context.name, final, drill, strip, data)
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


def load_trigger(path: Path) -> Trigger:
    """A trigger that the drill wrote: tensor `pattern`, and its place in the header."""
    if not path.exists():
        raise GatehouseError(f"{path} does not exist; run the drill stage again.")
    note_read(path)
    with safe_open(path, framework="pt") as f:
        place = f.metadata()
        return Trigger(f.get_tensor("pattern"), int(place["top"]), int(place["left"]))


def _thresholds(policy: Policy) -> dict[str, float]:
    return {name: policy.threshold("backdoor", name) for name in CHECKS}


def _parts(context: Context, data: Dataset) -> tuple[Part, Part]:
    """(images to search on, held-out images to measure on)."""
    return data.part("val", context.params.backdoor.search_images, context.params.run.seed), data.part("test")


def _attempt(
    context: Context,
    name: str,
    model: Classifier,
    data: Dataset,
    triggers: dict[str, Trigger],
    policy: Policy,
    note: dict[str, Any] | None = None,
) -> Attempt:
    search_set, test = _parts(context, data)
    judged = judge(model, search_set, test, triggers, context.params.backdoor, seed=context.params.run.seed)
    return Attempt(name, model, judged, checks(judged, _thresholds(policy)), note or {})


def _mitigate(
    context: Context, attempts: list[Attempt], data: Dataset, triggers: dict[str, Trigger], policy: Policy
) -> str:
    """Where the gate failed, try the mitigations in the order of params.yaml, judging each, until one passes.

    Each starts from the model as trained and is added to `attempts`; a sentence says what was done. The triggers that
    the methods are given are those that our own search found, never the drill's.
    """
    section, original = context.params.backdoor, attempts[0]
    if original.passes:
        return "no mitigation was needed."
    if context.candidate == "private_student":
        return VOID_EPSILON
    if not section.mitigation:
        return "the gate failed, and mitigation is off (backdoor.mitigation: [])."
    found, tried = original.judged.found, []
    for name in section.mitigation:
        given = Given(
            model=original.model,
            train=data.part("train"),
            val=data.part("val"),
            training=_training(context.params),
            section=section,
            triggers=tuple(p.trigger for p in (*found.patches, *found.simple_patches)),
            seed=context.params.run.seed,
            progress=lambda done, n=name: context.progress(done, section.mitigation_epochs, _words(n)),  # type: ignore[misc]
        )
        mitigated = mitigate(name, given)
        tried.append(f"{_words(name)} {mitigated.note['did']}")
        attempts.append(_attempt(context, name, mitigated.model, data, triggers, policy, mitigated.note))
        if attempts[-1].passes:
            return f"the gate failed; {'; '.join(tried)}: the result passes and replaces it."
    none = "the result does not pass either" if len(tried) == 1 else "none of the results passes"
    return f"the gate failed; {'; '.join(tried)}: {none}, and the original is kept."


def _training(params: Params) -> Training:
    """How mitigations train: as the student was, for the section's epochs, with all features at the same rate."""
    common = {k: getattr(params.student, k) for k in Training.model_fields}
    section = params.backdoor
    return Training(
        **common
        | {
            "epochs": section.mitigation_epochs,
            "learning_rate": section.mitigation_learning_rate,
            "backbone_scale": 1.0,
            "patience": section.mitigation_epochs,
        }
    )


def _words(name: str) -> str:
    return {"anp": "ANP", "fine_pruning": "Fine-Pruning", "ft_sam": "FT-SAM", "i_bau": "I-BAU"}.get(name, name)


def _reactivation(
    context: Context,
    attempts: list[Attempt],
    final: Attempt,
    drill: dict[str, Any],
    triggers: dict[str, Trigger],
    data: Dataset,
) -> dict[str, Any]:
    """Every drill trigger's re-activation in the final candidate, and in the drill's clean references beside.

    The target is the class that the trigger raises most in the candidate as trained: if a backdoor sleeps, it is that.
    """
    test, seed = _parts(context, data)[1], context.params.run.seed
    references = {r["model"]: load_model(Path(r["model_folder"]))[0] for r in drill["searches"] if r["kind"] == "clean"}
    report: dict[str, Any] = {}
    for name, trigger in triggers.items():
        target = control_by(attempts[0].model, trigger, test).worst_class

        def asked(model: Classifier, trigger: Trigger = trigger, target: int = target) -> Reactivation:
            return reactivate(model, data.part("train"), test, trigger, target_class=target, seed=seed)

        report[name] = {
            "candidate": asked(final.model).as_json(),
            "references": {n: asked(model).as_json() for n, model in references.items()},
        }
    return report


def _save(candidate: str, final: Attempt, record: ModelRecord) -> ModelRecord:
    """Write models/<candidate>; without mitigation the bytes, and so the digest, are those of the trained model."""
    parents, notes = dict(record.parents), dict(record.notes)
    if final.name != "as trained":
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
        _parts(context, data)[1],
        blends=section.strip_blends,
        false_refusals=section.strip_false_refusals,
        seed=context.params.run.seed,
    )


def _figures(name: str, final: Attempt, drill: dict[str, Any], strip: FilterReport, data: Dataset) -> None:
    folder = Path("reports/figures") / name
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
        _parts(context, data)[0],
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
        "reactivation": reactivation,
        "teacher_scan": drill["teacher_scan"],
    }


if __name__ == "__main__":
    main("backdoor", backdoor, per_candidate=True)
