"""The privacy gate: do a candidate's answers tell who was in its training data?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flows.stage import Context, main
from tasks.data.dataset import load_dataset
from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.gate import GateResult, Subject
from tasks.models.checkpoints import WEIGHTS, load_model
from tasks.models.inference import features, logits, require_finite
from tasks.privacy.attack import CandidateFigures, attack_candidate, choose_records, in_words
from tasks.privacy.claim import Claim, Proof, epsilon_check, prove, read_claim
from tasks.privacy.drill import run_drill
from tasks.privacy.plots import roc_figure
from tasks.privacy.scoring import attack_checks
from tasks.risk import load_policy

TEACHER = Path("models/teacher")
DATA = Path("data/student_task")
PRIVATE = Path("reports/private_student.json")

ASSUMPTIONS = (
    "The attacker has the record and its label, sees unrounded scores, and owns records of the same kind (5.1.1).",
    "Training and test split were drawn alike; the features-only baseline shows how far they differ by themselves.",
)
LIMITS = (
    "The figures hold for the attacks that ran; another attack may do better (chapter 6, comment by BSI).",
    "They are averages over records: single records and small groups can be more exposed (5.1.1, Yaghini).",
    "Reference heads learn on the teacher's features, not by the candidate's own recipe: an attacker who copies the "
    "recipe, or sees the weights, may do better.",
)
PRIVATE_ASSUMPTIONS = (
    "Teacher and teacher's data are public with respect to the student's records; records in both are not covered.",
    "The noise seed .gatehouse/keys/noise.seed stays secret: whoever has it can subtract the noise.",
)
PRIVATE_LIMITS = (
    "ε starts after cleaning and splitting, and does not count the number of records, the choice of hyperparameters, "
    "or the figures published about the model.",
    "Noise comes from a seeded generator, so that a run repeats itself on the machine that holds the secret; a release "
    "that need not repeat should draw its noise from a cryptographic source.",
)


def privacy(context: Context) -> None:
    """Attack the candidate's membership, drill the attacks, and check a private candidate's ε."""
    section, seed = context.params.privacy, context.params.run.seed
    folder = Path("models") / context.candidate
    model, record = load_model(folder)
    teacher, _ = load_model(TEACHER)
    data, policy = load_dataset(DATA), load_policy()
    if record.spec.classes != data.classes:
        raise GatehouseError(
            f"{folder} knows the classes {', '.join(record.spec.classes)}, {DATA} holds {', '.join(data.classes)}; "
            "run the student stage again."
        )
    sample = choose_records(data.split, data.labels, limit=section.attack_images, seed=seed)
    rows, attacked = sample.rows, len(sample.is_member)
    labels, images = data.labels[rows], data.images[rows]
    asked = attacked + len(sample.known)
    context.progress(0, 3, "questions to the candidate")
    output = require_finite(logits(model, images[:asked]), source=str(folder)).numpy()
    inputs = require_finite(features(teacher, images), source=str(TEACHER))
    context.progress(1, 3, "attacks")
    found = attack_candidate(
        sample, output, inputs, labels, classes=data.classes, references=section.references, seed=seed
    )
    thresholds = {
        "advantage_threshold": policy.threshold("privacy", "membership_advantage"),
        "tpr_threshold": policy.threshold("privacy", "tpr_at_1_fpr"),
    }
    context.progress(2, 3, "drill")
    drill, heads = run_drill(
        (inputs[:attacked], labels[:attacked]),
        (inputs[attacked:], labels[attacked:]),
        classes=len(data.classes),
        references=section.references,
        seed=seed,
        **thresholds,
    )
    context.progress(3, 3, "figures")
    checks = list(
        attack_checks(
            {a.attack: a.membership_advantage for a in found.attacks},
            {a.attack: a.tpr_at_fpr[0] for a in found.attacks},
            n=attacked,
            **thresholds,
        )
    )
    proof = claim = None
    if context.candidate == "private_student":
        claim = read_claim(read_json(PRIVATE), str(PRIVATE))
        proof = prove(claim, record, data.sha256)
        checks.append(epsilon_check(proof, policy.threshold("privacy", "epsilon")))
    sentence = in_words(found, proof.advantage_ceiling if proof else None)
    result = GateResult(
        gate="privacy",
        candidate=context.candidate,
        subject=Subject(path=str(folder / WEIGHTS), sha256=record.sha256),
        policy_sha256=policy.sha256,
        checks=tuple(checks),
        drill=drill,
        assumptions=ASSUMPTIONS + (PRIVATE_ASSUMPTIONS if proof else ()),
        limits=LIMITS + _sample_limits(found) + _proof_limits(proof, claim),
        run_id=context.run_id,
    )
    roc_figure(Path(f"reports/figures/privacy@{context.candidate}/roc.png"), (*found.attacks, found.baseline))
    write_json(
        Path(f"reports/privacy@{context.candidate}.json"),
        {
            "candidate": context.candidate,
            "sha256": record.sha256,
            "verdict": result.verdict,
            "in_words": sentence,
            "strongest": found.strongest.attack,
            **found.model_dump(mode="json"),
            "proof": proof.model_dump(mode="json") if proof else None,
            "references": section.references,
            "drill": {**drill.model_dump(mode="json"), "heads": [asdict(head) for head in heads]},
            "command": f"python -m flows.privacy --candidate {context.candidate}",
        },
    )
    result.write()
    for check in result.checks:
        context.say(check.sentence())
    context.say(
        f"{result.verdict}; drill: {drill.caught}/{drill.planted} caught, {drill.accused}/{drill.clean} accused"
    )
    context.say(sentence)
    context.metrics(
        {c.name: c.observed for c in result.checks}
        | {f"auc_{a.attack}": a.auc.value for a in (*found.attacks, found.baseline)}
        | {"train_accuracy": found.train_accuracy, "test_accuracy": found.test_accuracy}
    )


def _sample_limits(found: CandidateFigures) -> tuple[str, ...]:
    """What the number of records leaves open."""
    n = found.attacks[0].n_non_members
    rates = found.attacks[0].tpr_at_fpr
    least = "; .1 % cannot be told from 0" if np.floor(n * rates[1].fpr) == 0 else ""
    real = 100 * rates[0].fpr_high
    return (f"{n} non-members: a false-positive rate set to 1 % may in truth be up to {real:.2g} %{least}.",)


def _proof_limits(proof: Proof | None, claim: Claim | None) -> tuple[str, ...]:
    if proof is None or claim is None:
        return ()
    most = claim.images_of_one_person
    people = "who has how many is not known" if most is None else f"one person has up to {most} of the training images"
    one = (f"ε covers one image, not all images of one person: {people}.",)
    return (
        one + PRIVATE_LIMITS + (() if proof.epsilon is not None else (f"ε is not proven for this file: {proof.why}.",))
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["tune"]:  # any table: no stage of the lifecycle
        from flows.tune import main as tune

        tune(sys.argv[2:])
    else:
        main("privacy", privacy, per_candidate=True)
