"""Can the candidate be fooled, with its own gradients or through the teacher alone?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.stage import Context, main
from tasks.data.dataset import Dataset, load_dataset
from tasks.evasion import figures
from tasks.evasion.art_adapter import pgd
from tasks.evasion.measure import Measured, check_pair, choose_sample, measure
from tasks.evasion.reference import copied_students
from tasks.evasion.threat_models import GRAY_BOX, NOISE, THREAT_MODELS, WHITE_BOX
from tasks.evasion.verdict import (
    LARGE_BUDGET,
    LARGE_BUDGET_IMAGES,
    Sanity,
    drill,
    mimicry_check,
    pgd_check,
    points,
    proportion,
    reference_curves,
    sanity,
    sanity_check,
)
from tasks.files import write_json
from tasks.gate import Check, Drill, GateResult, Subject
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import WEIGHTS, load_model
from tasks.models.inference import logits
from tasks.risk import Policy, load_policy

TEACHER = Path("models/teacher")
DATA = Path("data/student_task")
REFERENCES = 4
REFERENCE_IMAGES = 1500
ASSUMPTIONS = (
    "Gray box: the attacker holds the teacher's weights and pictures that the candidate is sure of (3.2.1).",
    "White box: the attacker holds the candidate's weights, as where internals are exposed (C.4).",
    "Every pixel may change by the budget and no more; a picture sent by wire arrives as it was made (C.1, digital).",
)
LIMITS = (
    "Attacks bound from below what an attacker can do: a stronger or adaptive one may fool more images (3.2.2).",
    "One target picture an image, one random start; no attacks by queries, no physical changes were tried.",
    "Only changes bounded pixel by pixel were tried; patches are the backdoor gate's, rotations and contrast nobody's.",
)


def adversarial(context: Context) -> None:
    """Attack the candidate under each threat model and budget (section adversarial) and write the gate's result."""
    section, seed, name = context.params.adversarial, context.params.run.seed, context.candidate
    policy = load_policy()
    candidate, record = load_model(Path("models") / name)
    teacher, teacher_record = load_model(TEACHER)
    check_pair(record.spec, teacher_record.spec)
    data = load_dataset(DATA)
    images, labels = data.part("test", limit=section.images, seed=seed)
    sample = choose_sample(candidate, images, labels, seed=seed, source=f"models/{name}")

    measured = measure(
        candidate,
        teacher,
        sample,
        budgets=section.budgets,
        steps=section.steps,
        seed=seed,
        bfloat16=section.bfloat16,
        progress=_counter(context, 2 * len(section.budgets)),
    )
    few = slice(LARGE_BUDGET_IMAGES)
    far = pgd(
        candidate,
        sample.x[few],
        sample.y[few],
        eps=LARGE_BUDGET,
        steps=section.steps,
        seed=seed,
        bfloat16=section.bfloat16,
    )
    conditions = sanity(measured, (logits(candidate, far).argmax(1) != sample.y[few]).numpy())

    threshold = policy.threshold("adversarial", "mimicry_success")
    easy = _easy_prey(teacher, data, seed)
    tried = drill(easy, measured.mimicked[-1], measured.noisy[-1], sample, section.budgets[-1], threshold)
    checks = _checks(policy, measured, conditions, threshold)
    result = GateResult(
        gate="adversarial",
        candidate=name,
        subject=Subject(path=f"models/{name}/{WEIGHTS}", sha256=record.sha256),
        policy_sha256=policy.sha256,
        checks=checks,
        drill=tried,
        assumptions=ASSUMPTIONS,
        limits=LIMITS,
        run_id=context.run_id,
    )
    result.write()
    references = reference_curves(easy, measured.mimicked, sample, section.budgets)
    report = _report(measured, conditions, tried, references, judged=[c.name for c in checks])
    identity = {"candidate": name, "sha256": record.sha256, "teacher_sha256": teacher_record.sha256}
    write_json(Path(f"reports/adversarial@{name}.json"), {**identity, "steps": section.steps, **report})
    _figures(Path(f"reports/figures/adversarial@{name}"), candidate, measured, references, data.classes)
    for check in checks:
        context.say(check.sentence())
    context.say(f"verdict: {result.verdict}; drill: {tried.caught}/{tried.planted} caught, {tried.accused} accused")
    context.metrics(
        {
            f"{curve.threat_model}_success_{i}": float(fooled.mean()) if len(fooled) else None
            for curve in measured.curves.values()
            for i, fooled in enumerate(curve.fooled, start=1)
        }
    )


def _counter(context: Context, total: int) -> Callable[[str], None]:
    done = iter(range(total + 1))
    return lambda text: context.progress(next(done), total, text)


def _easy_prey(teacher: Classifier, data: Dataset, seed: int) -> list[Classifier]:
    images, labels = data.part("train", limit=REFERENCE_IMAGES, seed=seed)
    return copied_students(teacher, images, labels, len(data.classes), count=REFERENCES, seed=seed)


def _checks(
    policy: Policy, measured: Measured, conditions: tuple[Sanity, ...], mimicry_threshold: float
) -> tuple[Check, ...]:
    """The white box is judged only where the policy holds a threshold for it; it is measured and reported anyway."""
    checks = [mimicry_check(measured.curves[GRAY_BOX.name], mimicry_threshold)]
    if "adversarial.pgd_success" in policy.thresholds:
        checks.append(pgd_check(measured.curves[WHITE_BOX.name], policy.threshold("adversarial", "pgd_success")))
    return (*checks, sanity_check(conditions))


def _report(
    measured: Measured,
    conditions: tuple[Sanity, ...],
    tried: Drill,
    references: list[list[float | None]],
    *,
    judged: list[str],
) -> dict[str, Any]:
    sample = measured.sample
    return {
        "images": sample.n,
        "right": len(sample.rows),
        "clean_accuracy": proportion(len(sample.rows), sample.n),
        "judged": judged,
        "curves": {
            threat.name: {
                "title": threat.title,
                "attack": threat.attack,
                "knows": threat.knows,
                "points": points(measured.curves[threat.name], sample),
            }
            for threat in THREAT_MODELS
        },
        "sanity": [c.model_dump() for c in conditions],
        "drill": {
            **tried.model_dump(),
            "trustworthy": tried.trustworthy,
            "mimicry_success_on_copies": [[None if s is None else round(s, 6) for s in row] for row in references],
        },
    }


def _figures(
    folder: Path,
    candidate: Classifier,
    measured: Measured,
    references: list[list[float | None]],
    classes: tuple[str, ...],
) -> None:
    sample, eps = measured.sample, measured.curves[NOISE.name].budgets[-1]
    figures.accuracy_against_budget(
        folder / "accuracy_against_budget.png", measured.curves, sample, reference=references
    )
    crafted = {
        WHITE_BOX.name: measured.pgd_images[-1],
        GRAY_BOX.name: measured.mimicked[-1],
        NOISE.name: measured.noisy[-1],
    }
    answers = {
        name: [
            f"{classes[int(true)]} → {classes[int(said)]}"
            for true, said in zip(sample.y, logits(candidate, changed).argmax(1), strict=True)
        ]
        for name, changed in crafted.items()
    }
    figures.strip(folder / "images.png", sample, crafted, answers, eps)


if __name__ == "__main__":
    main("adversarial", adversarial, per_candidate=True)
