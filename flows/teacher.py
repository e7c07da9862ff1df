"""Candidate teachers in, one teacher out, with the evidence of the choice."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from flows.stage import Context, main
from flows.vet_report import power_in_words
from flows.vetting import references, vetted
from tasks.data.clean_set import LEAST, LEAST_OF_A_CLASS
from tasks.data.dataset import load_dataset
from tasks.errors import GatehouseError
from tasks.files import write_json, writing
from tasks.gate import Check, GateResult, Subject
from tasks.models.checkpoints import WEIGHTS, ModelRecord, save_model
from tasks.risk import load_policy
from tasks.teachers import signatures
from tasks.teachers.advisories import FEED_FILE, Advisories, load_advisories
from tasks.teachers.card import load_offers
from tasks.teachers.case import OwnTask, Rules
from tasks.teachers.checks import check_waivers
from tasks.teachers.selection import Verdict, choose, examine_all, why

TEACHER = Path("models/teacher")
REPORT = Path("reports/teacher.json")
FIGURES = Path("reports/figures/teacher")
TASK = Path("data/teacher_task")
Labelled = tuple[np.ndarray, np.ndarray]
WORKERS = 8  # at most: each holds torch and the images; figures do not depend on how many there are
WATCHED = (Path("cards"), Path("models/teachers"))  # dvc.yaml lists these as dependencies of the stage
ASSUMPTIONS = (
    "The trusted public keys were obtained by another way than the weights they verify.",
    "The pinned digests come from a source that is trusted more than the place of the download.",
    "The test images that accuracy was measured on are clean.",
)
LIMITS = (
    "Provenance says who answers for a file, not how the model behaves: a signed teacher may carry a backdoor (4.3.1).",
    "Disclosed training data are the provider's statement; that they were used, and nothing else, is not verified.",
    "High accuracy on clean images says nothing of backdoors, which leave it intact by design.",
    "Vetting ranks candidates and refuses none: it has false alarms, and hardly sees patterns over the whole image.",
)


def teacher(context: Context) -> None:
    """Check every candidate of params.yaml (section teacher), choose the best, write it with the reasons."""
    section, policy = context.params.teacher, load_policy()
    check_waivers(section.waive)
    offers = load_offers(tuple(_watched(c, "cards") for c in section.cards))
    rules = Rules(
        trusted_keys=frozenset(signatures.fingerprint(Path(_watched(k, "trusted_keys"))) for k in section.trusted_keys),
        licences_accepted=section.licences_accepted,
        min_accuracy=section.min_accuracy,
        advisories=_advisories(section.advisories),
    )
    task = _own_task()

    def progress(done: int, verdict: Verdict) -> None:
        reasons = "; ".join(f.name for f in verdict.refusals)
        context.progress(done, len(offers), verdict.name)
        waived = f", waived: {', '.join(f.name for f in verdict.waived)}" if verdict.waived else ""
        context.say(f"{verdict.name}: " + ("accepted" if verdict.accepted else f"refused ({reasons})") + waived)

    verdicts = _vet(context, examine_all(offers, rules, task, section.waive, progress=progress))
    report: dict[str, Any] = {
        "chosen": None,
        "why": "",
        "waive": list(section.waive),
        "candidates": [v.record() for v in verdicts],
    }
    try:
        chosen = choose(verdicts)
    except GatehouseError as error:
        write_json(REPORT, report | {"why": str(error)})
        raise
    record = _save(chosen, task)
    write_json(REPORT, report | {"chosen": chosen.name, "why": why(chosen, verdicts), "sha256": record.sha256})
    result = _result(context, chosen, record, policy.threshold("provenance", "failed_checks"), policy.sha256)
    result.write()
    context.metrics(
        {
            "refused": sum(not v.accepted for v in verdicts),
            "waived": len(chosen.waived),
            "accuracy": chosen.accuracy.value if chosen.accuracy else None,
        }
    )
    context.say(why(chosen, verdicts))


def _vet(context: Context, verdicts: list[Verdict]) -> list[Verdict]:
    """Those that were not refused beside reference models of our own task, where their classes are our own."""
    section, seed = context.params.teacher, context.params.run.seed
    with writing(FIGURES) as folder:
        folder.mkdir(parents=True)
        if not section.vet_images:
            return verdicts
        data = load_dataset(TASK)
        # The candidate is scored on images that no reference has seen, and that nobody trained it on.
        parts = data.part("train", section.vet_images, seed), data.part("val", section.vet_images // 4, seed)
        return [_vetted(context, v, data.classes, *parts, folder) if v.accepted else v for v in verdicts]


def _vetted(
    context: Context, verdict: Verdict, classes: tuple[str, ...], train: Labelled, held_out: Labelled, folder: Path
) -> Verdict:
    """The candidate with its vetting: a report, or a sentence that says why there is none."""
    section, case = context.params.teacher, verdict.case
    if case.model is None or case.accuracy is None:
        return _not_vetted(context, verdict, f"its classes or inputs are not those of {TASK}")
    least = min(np.bincount(part[1], minlength=len(classes)).min() for part in (train, held_out))
    if least < LEAST_OF_A_CLASS or len(train[1]) < LEAST:
        return _not_vetted(
            context, verdict, f"{TASK} has {len(train[1])} images to train references on and {len(held_out[1])} to "
            f"score on; vetting needs {LEAST}, and {LEAST_OF_A_CLASS} of each class in both",
        )  # fmt: skip
    _, channels, side, _ = train[0].shape
    spec = case.offer.card.spec(channels=channels, image_size=side)
    own = np.array([spec.classes.index(c) for c in classes])
    train, held_out = (train[0], own[train[1]]), (held_out[0], own[held_out[1]])
    beside = references(
        spec, train, held_out, seed=context.params.run.seed, clean=section.vet_references,
        canaries=section.vet_canaries, workers=min(len(os.sched_getaffinity(0)), WORKERS), progress=context.progress,
    )  # fmt: skip
    report = vetted(case.model, spec, held_out, beside, folder / f"{verdict.name}.json")
    said = f"{report['verdict']}, score {report['score']:.2f}; {power_in_words(beside.calibration)}"
    context.say(f"{verdict.name} vetted: {said}")
    return verdict.vetted(report)


def _not_vetted(context: Context, verdict: Verdict, why: str) -> Verdict:
    context.say(f"{verdict.name} not vetted: {why}.")
    return verdict.vetted({"verdict": "not vetted", "why": f"{why}."})


def _watched(path: str, key: str) -> str:
    """DVC runs the stage again when these folders change; a file elsewhere could change unnoticed."""
    if not any(folder in Path(path).parents for folder in WATCHED) or ".." in Path(path).parts:
        raise GatehouseError(
            f"params.yaml: teacher.{key} names {path}, outside of cards/ and models/teachers/, where changes "
            "are noticed; put it into cards/."
        )
    return path


def _advisories(own: str) -> Advisories | None:
    """The user's own list and what monitoring believed of a signed feed; None where there is neither."""
    files = [Path(_watched(own, "advisories"))] if own else []
    files += [FEED_FILE] if FEED_FILE.exists() else []
    return Advisories(advisories=tuple(a for f in files for a in load_advisories(f).advisories)) if files else None


def _own_task() -> OwnTask:
    data = load_dataset(TASK)
    images, labels = data.part("test")
    _, channels, side, _ = data.images.shape
    return OwnTask(data.classes, channels, side, data.sha256, images, labels)


def _save(chosen: Verdict, task: OwnTask) -> ModelRecord:
    """The teacher as later stages load it: for images of our data's depth and side, whatever it was trained at."""
    card, model = chosen.case.offer.card, chosen.case.model
    if model is None or chosen.case.sha256 is None:
        raise AssertionError("an accepted candidate has a model and a digest")
    return save_model(
        TEACHER,
        model,
        card.spec(channels=task.channels, image_size=task.image_size),
        parents={"file": chosen.case.sha256},
        notes={
            "card": card.name,
            "provider": card.provider.name,
            "licence": card.licence,
            "trained_image_size": str(card.image_size),
            "advised_freeze": str(card.advised_freeze),
        },
    )


def _result(context: Context, chosen: Verdict, record: ModelRecord, threshold: float, policy_sha256: str) -> GateResult:
    failed, made = len(chosen.refusals), [f for f in chosen.findings if f.status != "unknown"]
    checks = [
        Check(
            name="failed_checks",
            metric="provenance checks that failed and were not waived",
            observed=failed,
            ci=(failed, failed),
            op="<=",
            threshold=threshold,
            n=len(made),
        )
    ]
    accuracy_waived = any(f.name == "accuracy" for f in chosen.waived)
    if chosen.accuracy and not accuracy_waived:
        checks.append(
            Check(
                name="teacher_accuracy",
                metric="accuracy on own test images of the teacher's task",
                observed=chosen.accuracy.value,
                ci=(chosen.accuracy.low, chosen.accuracy.high),
                op=">=",
                threshold=context.params.teacher.min_accuracy,
                n=chosen.accuracy.n,
            )
        )
    unknown = [f for f in chosen.findings if f.status == "unknown"]
    return GateResult(
        gate="provenance",
        candidate="teacher",
        subject=Subject(path=str(TEACHER / WEIGHTS), sha256=record.sha256),
        policy_sha256=policy_sha256,
        checks=tuple(checks),
        assumptions=(*(f"Waived by teacher.waive: {f.name}: {f.evidence}" for f in chosen.waived), *ASSUMPTIONS),
        limits=(*(f"Not known: {f.name}: {f.evidence}" for f in unknown), *LIMITS),
        run_id=context.run_id,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["vet"]:  # any teacher, with a small clean set: no stage of the lifecycle
        from flows.vet import main as vet

        vet(sys.argv[2:])
    else:
        main("teacher", teacher)
