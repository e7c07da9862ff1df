"""Promoted or refused: a pure function of policy, gate results, the candidate's record and the champion's accuracy."""

from __future__ import annotations

from typing import Literal

from tasks.gate import Check, Frozen, GateResult, Verdict
from tasks.models.checkpoints import ModelRecord
from tasks.promotion.next_steps import DRILL, DRILLS, UNBOUND, UNMEASURED, next_step
from tasks.risk import Policy

# Gates that judge a parent of the model: name → (candidate in the file's name, parent in model.json).
PARENT_GATES = {"data": ("student_task", "student_task"), "provenance": ("teacher", "teacher")}
# Thresholds that hold for one candidate only: a student trained without noise has no ε to compare.
ONLY_FOR = {"privacy.epsilon": "private_student"}


class Reason(Frozen):
    """Why promotion is refused: one check (or one missing piece of evidence), by how much, and what to do next."""

    gate: str
    check: str
    status: Literal["failed", "inconclusive", "missing", "unbound"]
    sentence: str
    next_step: str
    metric: str = ""
    observed: float | None = None
    ci: tuple[float, float] | None = None
    op: str = ""
    threshold: float | None = None
    by: float | None = None  # distance of the interval's bad end from the threshold
    n: int | None = None
    unit: str = ""


class Comparison(Frozen):
    """The candidate beside the reigning champion, on the same test images."""

    counts: bool  # False: there is no champion, or nothing proves it, or it answers another question
    why: str
    version: str = ""
    sha256: str = ""
    candidate_balanced_accuracy: float | None = None
    champion_balanced_accuracy: float | None = None
    check: Check | None = None  # difference candidate − champion, against minus the margin


class Decision(Frozen):
    decision: Literal["promoted", "refused"]
    candidate: str
    sha256: str
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    comparison: Comparison


def result_candidate(gate: str, candidate: str) -> str:
    """What stands after the @ in the name of this gate's result."""
    return PARENT_GATES[gate][0] if gate in PARENT_GATES else candidate


def result_names(gates: tuple[str, ...], candidate: str) -> tuple[str, ...]:
    """File names of the results of `gates` for a candidate: `backdoor@student.json`, `data@student_task.json`."""
    return tuple(f"{gate}@{result_candidate(gate, candidate)}.json" for gate in gates)


def decide(policy: Policy, results: tuple[GateResult, ...], record: ModelRecord, comparison: Comparison) -> Decision:
    """Promote only where every required gate passed on this very digest and the champion is not clearly better."""
    reasons = [r for gate in policy.required() for r in gate_reasons(gate, policy, results, record)]
    if comparison.counts:
        reasons += _comparison_reasons(comparison)
    return Decision(
        decision="refused" if reasons else "promoted",
        candidate=policy.candidate,
        sha256=record.sha256,
        reasons=tuple(reasons),
        notes=_notes(policy, results, record, comparison),
        comparison=comparison,
    )


def gate_reasons(gate: str, policy: Policy, results: tuple[GateResult, ...], record: ModelRecord) -> list[Reason]:
    """Everything that keeps this gate from counting as passed for the candidate; empty where it passed."""
    name = result_names((gate,), policy.candidate)[0]
    own = [r for r in results if r.file_name == name]
    if not own:
        return [_evidence(gate, "result", "missing", f"{gate}: the policy requires {name}, and there is none.")]
    return [reason for result in own for reason in _result_reasons(result, policy, record)]


def _result_reasons(result: GateResult, policy: Policy, record: ModelRecord) -> list[Reason]:
    reasons = _binding(result, policy, record)
    reasons += [check_reason(result.gate, c) for c in result.checks if c.status != "passed"]
    drill = result.drill
    if drill is not None and not drill.trustworthy:
        text = (
            f"{result.gate}: the drill caught {drill.caught} of {drill.planted} canaries and accused "
            f"{drill.accused} of {drill.clean} clean models, so the gate proves nothing either way."
        )
        reasons.append(
            Reason(
                gate=result.gate,
                check="drill",
                status="inconclusive",
                sentence=text,
                next_step=DRILLS.get(result.gate, DRILL),
            )
        )
    if not reasons and result.verdict != "passed":
        reasons.append(_evidence(result.gate, "verdict", result.verdict, f"{result.gate} is {result.verdict}."))
    return reasons


def _binding(result: GateResult, policy: Policy, record: ModelRecord) -> list[Reason]:
    """The result must speak of this candidate, under this policy, with the policy's own thresholds, and omit none."""
    gate, reasons = result.gate, []
    parent = PARENT_GATES.get(gate, ("", ""))[1]
    wanted = record.parents.get(parent, "") if parent else record.sha256
    if result.subject.sha256 != wanted:
        of = f"the candidate's parent {parent!r}" if parent else "the candidate"
        text = f"{gate} judged {result.subject.sha256[:12]}, but {of} is {wanted[:12] or 'not recorded'}."
        reasons.append(_evidence(gate, "subject", "unbound", text))
    if result.policy_sha256 != policy.sha256:
        text = f"{gate} was judged under policy {result.policy_sha256[:12]}, but {policy.sha256[:12]} is in force."
        reasons.append(_evidence(gate, "policy", "unbound", text))
    checks = {c.name: c for c in result.checks}
    for key, threshold in policy.thresholds.items():
        owner, name = key.split(".", 1)
        if owner != gate or ONLY_FOR.get(key, policy.candidate) != policy.candidate:
            continue
        if (check := checks.get(name)) is None:
            reasons.append(_evidence(gate, name, "missing", f"{gate} lacks the check {name} that the policy names."))
        elif check.threshold != threshold or check.op != (">=" if name.endswith("_minimum") else "<="):
            text = f"{gate}: {name} was compared with {check.op} {check.threshold:g}, the policy says {threshold:g}."
            reasons.append(_evidence(gate, name, "unbound", text))
    return reasons


def _evidence(
    gate: str, check: str, status: Literal["failed", "inconclusive", "missing", "unbound"] | Verdict, sentence: str
) -> Reason:
    return Reason.model_validate(
        {"gate": gate, "check": check, "status": status, "sentence": sentence, "next_step": UNBOUND}
    )


def check_reason(gate: str, check: Check) -> Reason:
    """A failing or inconclusive check as a reason: figure, interval, threshold, by how much, next step."""
    bad = check.bad_end
    failed = check.status == "failed" and bad is not None
    by = abs(bad - check.threshold) if failed and bad is not None else None
    missed = "the bad end of its interval misses the threshold"
    tail = f"{missed} by {by:.3g}" if by is not None else "it could not be measured well enough to say"
    return Reason(
        gate=gate,
        check=check.name,
        status="failed" if failed else "inconclusive",
        sentence=f"{gate}: {check.sentence()}; {tail}.",
        next_step=next_step(gate, check.name) if failed else UNMEASURED,
        metric=check.metric,
        observed=check.observed,
        ci=check.ci,
        op=check.op,
        threshold=check.threshold,
        by=by,
        n=check.n,
        unit=check.unit,
    )


def _comparison_reasons(comparison: Comparison) -> list[Reason]:
    if comparison.check is None:
        text = f"champion: version {comparison.version} counts, but the comparison with it was not measured."
        return [_evidence("champion", "balanced_accuracy", "inconclusive", text)]
    return [] if comparison.check.status == "passed" else [check_reason("champion", comparison.check)]


def _notes(
    policy: Policy, results: tuple[GateResult, ...], record: ModelRecord, comparison: Comparison
) -> tuple[str, ...]:
    """What a reviewer should know although it does not decide."""
    notes = [comparison.why]
    optional = [rule for rule in policy.gates if not rule.required]
    for rule in optional:
        if reasons := gate_reasons(rule.gate, policy, results, record):
            notes.append(f"Gate {rule.gate} is not required by the policy and did not pass: {reasons[0].sentence}")
    if "unmitigated" in record.parents:
        notes.append(
            f"The candidate was mitigated after training: it was {record.parents['unmitigated'][:12]} before, and the "
            "gates judged what it is now."
        )
    if comparison.sha256 == record.sha256:
        notes.append("The candidate and the reigning champion are the same weights.")
    return tuple(notes)
