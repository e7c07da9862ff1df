"""Can the candidate be fooled, with its own gradients or through the teacher alone?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.stage import Context, main
from tasks.data.dataset import Dataset, load_dataset
from tasks.evasion import figures
from tasks.evasion.attacks.fingerprint import confusion
from tasks.evasion.measure import Attacker, Effort, Measured, looks, measure, white_box
from tasks.evasion.reference import copied_students, last_block_student
from tasks.evasion.sample import Sample, check_pair, choose_sample
from tasks.evasion.sanity import LARGE_BUDGET, LARGE_BUDGET_IMAGES, Sanity, sanity, sanity_check
from tasks.evasion.threat_models import BLACK_BOX, GRAY_BOX, NOISE, THREAT_MODELS, WHITE_BOX
from tasks.evasion.verdict import by_freeze, check_name, drill, points, reference_curves, success_check
from tasks.files import write_json
from tasks.gate import Check, Drill, GateResult, Subject
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import WEIGHTS, load_model
from tasks.models.inference import logits
from tasks.params import Params
from tasks.risk import Policy, load_policy
from tasks.stats import proportion

TEACHER = Path("models/teacher")
DATA = Path("data/student_task")
REFERENCES = 4
REFERENCE_IMAGES = 1500
DRILLED = Path("models/drill")
PROBES, PROBE_STEPS = 8, 100  # queries for each network of the line-up, and steps spent on each of their images
FROZEN, LAST_BLOCK, TEACHER_ITSELF = "all frozen, undefended", "last block, undefended", "its teacher"
ASSUMPTIONS = (
    "Gray box: the attacker holds the teacher's weights and pictures that the candidate is sure of (3.2.1).",
    "Black box: the attacker sees scores, as many as he pays for, and knows the architecture (C.2, C.3).",
    "White box: the attacker holds the candidate's weights, as where internals are exposed (C.4).",
    "Every pixel may change by the budget and no more; a picture sent by wire arrives as it was made (C.1, digital).",
)
LIMITS = (
    "Attacks bound from below what an attacker can do: a stronger or adaptive one may fool more images (3.2.2).",
    "One random start an attack; queries end at adversarial.queries; no physical changes were tried.",
    "Only changes bounded pixel by pixel were tried; patches are the backdoor gate's, rotations and contrast nobody's.",
)


def adversarial(context: Context) -> None:
    """Attack the candidate under each threat model and budget (section adversarial) and write the gate's result."""
    params, name = context.params, context.candidate
    section, seed = params.adversarial, params.run.seed
    policy = load_policy()
    candidate, record = load_model(Path("models") / name)
    teacher, teacher_record = load_model(TEACHER)
    check_pair(record.spec, teacher_record.spec)
    data = load_dataset(DATA)
    images, labels = data.part("test", limit=section.images, seed=seed)
    sample = choose_sample(candidate, images, labels, seed=seed, source=f"models/{name}")
    # The attacker's pictures are none that the candidate was trained or is judged on.
    own = data.part("val", limit=section.own_images, seed=seed)
    attacker = Attacker(teacher, record.spec, own, params.student.recipe())
    effort = _effort(params, policy)
    count = _counter(context, looks(effort))
    measured = measure(candidate, attacker, sample, effort, progress=count)
    conditions = sanity(measured, _at_large_budget(candidate, sample, effort))

    threshold = policy.threshold("adversarial", check_name(GRAY_BOX.name))
    easy, last_block = _easy_prey(teacher, data, seed)
    noisy = measured.crafted[NOISE.name][-1]
    tried = drill(easy, measured.through_teacher, noisy, sample, section.budgets[-1], threshold)
    checks = _checks(policy, measured, conditions)
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
    references = reference_curves(easy, measured.crafted[GRAY_BOX.name], sample, section.budgets)
    kinds = {FROZEN: easy, LAST_BLOCK: [last_block]}
    freeze = by_freeze(kinds, measured, section.budgets[-1])
    asked = {FROZEN: easy[0], LAST_BLOCK: last_block, "the candidate": candidate}
    _, channels, side, _ = sample.x.shape
    named = confusion(asked, _lineup(teacher), channels=channels, side=side, count=PROBES, steps=PROBE_STEPS, seed=seed)
    report = _report(measured, conditions, tried, references, freeze, judged=[c.name for c in checks])
    identity = {"candidate": name, "sha256": record.sha256, "teacher_sha256": teacher_record.sha256}
    spent = {"steps": section.steps, "queries": section.queries, "own_images": len(attacker.own[1])}
    fingerprints = {"queries": PROBES * len(named[0]["dispersions"]), "students": named}
    write_json(Path(f"reports/adversarial@{name}.json"), {**identity, **spent, **report, "fingerprint": fingerprints})
    folder = Path(f"reports/figures/adversarial@{name}")
    _figures(folder, candidate, measured, references, data.classes)
    figures.success_by_freeze(folder / "success_by_freeze.png", freeze, section.budgets[-1])
    figures.confusion(folder / "teacher_named.png", named)
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


def _effort(params: Params, policy: Policy) -> Effort:
    own = params.adversarial
    labels = policy.output == "labels"  # what serving will answer with
    return Effort(own.budgets, own.steps, own.queries, params.run.seed, own.bfloat16, labels_only=labels)


def _at_large_budget(candidate: Classifier, sample: Sample, effort: Effort) -> Any:
    """Which of a few images the white box fools where the budget lets it do nearly anything."""
    few = slice(LARGE_BUDGET_IMAGES)
    own = Sample(sample.n, sample.rows[few], sample.x[few], sample.y[few], sample.targets[few])
    far = white_box(candidate, own, LARGE_BUDGET, effort.steps, effort)
    return (logits(candidate, far).argmax(1) != own.y).numpy()


def _counter(context: Context, total: int) -> Callable[[str], None]:
    done = iter(range(total + 1))
    return lambda text: context.progress(next(done), total, text)


def _easy_prey(teacher: Classifier, data: Dataset, seed: int) -> tuple[list[Classifier], Classifier]:
    """Undefended students beside the candidate: copies of the teacher, and one that retrained its last block."""
    few = data.part("train", limit=REFERENCE_IMAGES, seed=seed)
    copies = copied_students(teacher, *few, len(data.classes), count=REFERENCES, seed=seed)
    return copies, last_block_student(teacher, *few, len(data.classes), seed=seed)


def _lineup(teacher: Classifier) -> dict[str, Classifier]:
    """The teacher among networks that are not the candidate's: those that the drill trained and kept."""
    folders = {path.parent.name.split("_")[0]: path.parent for path in sorted(DRILLED.glob(f"*/{WEIGHTS}"))}
    return {TEACHER_ITSELF: teacher} | {name: load_model(folder)[0] for name, folder in folders.items()}


def _checks(policy: Policy, measured: Measured, conditions: tuple[Sanity, ...]) -> tuple[Check, ...]:
    """A threat model is judged only where the policy holds a limit for it; it is measured and reported anyway."""
    limits = policy.thresholds
    checks = [
        success_check(measured.curves[threat.name], limits[f"adversarial.{check_name(threat.name)}"])
        for threat in (GRAY_BOX, BLACK_BOX, WHITE_BOX)
        if f"adversarial.{check_name(threat.name)}" in limits
    ]
    return (*checks, sanity_check(conditions))


def _report(
    measured: Measured,
    conditions: tuple[Sanity, ...],
    tried: Drill,
    references: list[list[float | None]],
    freeze: list[dict[str, Any]],
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
                "points": points(measured, threat),
            }
            for threat in THREAT_MODELS
        },
        "attacks": {name: proportion(int(f.sum()), len(f)) for name, f in measured.by_attack.items()},
        "by_freeze": freeze,
        "sanity": [c.model_dump() for c in conditions],
        "drill": {
            **tried.model_dump(),
            "trustworthy": tried.trustworthy,
            "success_on_copies": [[None if s is None else round(s, 6) for s in row] for row in references],
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
    crafted = {name: images[-1] for name, images in measured.crafted.items()}
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
