"""The ε of a private student: recomputed from what its report says was done, and void where the file is another one."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tasks.errors import GatehouseError
from tasks.gate import Check, Frozen
from tasks.models.checkpoints import ModelRecord
from tasks.privacy.accounting import advantage_ceiling, epsilon

POISSON, HEAD = "Poisson", "head"  # what the accounting assumes, and what has no batch statistics


class Claim(Frozen):
    """What private training reports; `sha256` is of the weights that it wrote."""

    sha256: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float
    records: int
    images_of_one_person: int | None
    sampler: str
    trainable: str


class Proof(Frozen):
    """What a claim is worth for the model at hand. `epsilon` is None where it does not cover it; `why` says why."""

    epsilon: float | None
    delta: float
    advantage_ceiling: float | None
    records: int
    why: str


def read_claim(report: dict[str, Any], source: str) -> Claim:
    """The claim in `reports/private_student.json`; one clear sentence where it holds none."""
    try:
        return Claim.model_validate({name: report.get(name) for name in Claim.model_fields})
    except ValidationError as error:
        raise GatehouseError(
            f"{source} is malformed at {error.errors()[0]['loc'][0]}; run the private_student stage again."
        ) from error


def prove(claim: Claim, model: ModelRecord, data_sha256: str) -> Proof:
    """Recompute ε and the proven ceiling of any attack by PLD accounting, if the claim is about this very file."""
    why = ""
    if model.sha256 != claim.sha256:
        why = (
            "the model is not the file that private training wrote: it was changed since, with the private data or not"
        )
    elif model.parents.get("student_task") != data_sha256:
        why = "the model was trained on another version of the student's data"
    elif claim.delta >= 1 / claim.records:
        why = "δ is not below one over the number of training records"
    elif claim.noise_multiplier <= 0:
        why = "it was trained without noise"
    elif claim.sampler != POISSON:
        why = (
            f"its batches were drawn by {claim.sampler!r}: the proof holds where every record is drawn by the same "
            "toss of a coin, not where records are weighted, shuffled or cut to a batch size"
        )
    elif claim.trainable != HEAD:
        why = (
            f"{claim.trainable!r} was trained, not the head alone: the batch statistics of the layers below mix "
            "records, so that no record's share can be clipped"
        )
    if why:
        return Proof(epsilon=None, delta=claim.delta, advantage_ceiling=None, records=claim.records, why=why)
    value = epsilon(
        noise_multiplier=claim.noise_multiplier, sample_rate=claim.sample_rate, steps=claim.steps, delta=claim.delta
    )
    ceiling = advantage_ceiling(
        noise_multiplier=claim.noise_multiplier, sample_rate=claim.sample_rate, steps=claim.steps
    )
    return Proof(
        epsilon=round(value, 6),
        delta=claim.delta,
        advantage_ceiling=round(ceiling, 6),
        records=claim.records,
        why="recomputed from noise, sample rate and steps",
    )


def epsilon_check(proof: Proof, threshold: float) -> Check:
    """ε against its threshold: exact, so its interval has no width; not measured where the proof is void."""
    return Check(
        name="epsilon",
        metric=f"proven ε at δ = {proof.delta:.2g}",
        observed=proof.epsilon,
        ci=None if proof.epsilon is None else (proof.epsilon, proof.epsilon),
        op="<=",
        threshold=threshold,
        n=proof.records,
    )
