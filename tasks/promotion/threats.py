"""Which threats were tested, and which were not: OWASP's ML top ten and MITRE ATLAS against the gates' verdicts.

The rows are the table of docs/coverage.md, word by word (a test compares); `threat_table` adds what this candidate's
gates found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.gate import GateResult
from tasks.risk import Policy

THREATS_FILE = "threats.json"


class Threat(NamedTuple):
    """A row: `checks` names the gate, or single checks as `gate.check`, whose verdict speaks of it."""

    name: str
    owasp: str
    atlas: str
    tested_by: str
    not_seen: str
    checks: tuple[str, ...] = ()


THREATS: tuple[Threat, ...] = (
    Threat(
        name="evasion",
        owasp="ML01",
        atlas="AML.T0015, AML.T0043",
        tested_by=(
            "adversarial gate: APGD on the candidate, six attacks through the teacher, Square and a "
            "substitute by queries"
        ),
        not_seen="physical inputs, changes not bounded pixel by pixel",
        checks=("adversarial",),
    ),
    Threat(
        name="poisoned training data",
        owasp="ML02",
        atlas="AML.T0020",
        tested_by="data gate; activation clustering and spectral signatures on the student's data",
        not_seen="clean-label poison",
        checks=("data",),
    ),
    Threat(
        name="model inversion",
        owasp="ML03",
        atlas="AML.T0024.001",
        tested_by=("no gate; measured on the study's students: gradient inversion, attribute inference"),
        not_seen="inversion by queries, generative priors",
    ),
    Threat(
        name="membership inference",
        owasp="ML04",
        atlas="AML.T0024.000",
        tested_by=(
            "privacy gate: loss threshold, likelihood ratio offline and online, RMIA, with a few "
            "references; ε of the private student; measured apart: the study's forest and network, each "
            "kind of answer, label-only"
        ),
        not_seen="label-only attacks and many references in the gate",
        checks=("privacy",),
    ),
    Threat(
        name="model theft",
        owasp="ML05",
        atlas="AML.T0024.002",
        tested_by=(
            "serving may round or hide scores; keys and budgets of images a day; copies by budget and kind of answer "
            "are measured; monitoring sees synthetic queries before a copy agrees on 80 %"
        ),
        not_seen="copies learnt from other patients' images of the same kind",
    ),
    Threat(
        name="supply chain",
        owasp="ML06",
        atlas="AML.T0010",
        tested_by=(
            "provenance gate: digest, signature, format, safe loading, tensors, licence, advisories; "
            "vetting beside reference models ranks candidates"
        ),
        not_seen="a backdoor that vetting misses, signed by its provider",
        checks=("provenance",),
    ),
    Threat(
        name="transfer learning",
        owasp="ML07",
        atlas="AML.T0018",
        tested_by="drill: planted backdoors followed from teacher to student for every freeze policy",
        not_seen="canaries other than BadNets (the zoo has five attacks)",
        checks=("backdoor.trigger_control",),
    ),
    Threat(
        name="skewed or drifting input",
        owasp="ML08",
        atlas="–",
        tested_by="monitoring: drift against the signed reference",
        not_seen="concept drift without input drift; a new class in a quarter of the images or fewer",
    ),
    Threat(
        name="integrity of outputs",
        owasp="ML09",
        atlas="–",
        tested_by="serving verifies evidence, digest and the newest signed decision",
        not_seen="a compromised host",
    ),
    Threat(
        name="poisoned model",
        owasp="ML10",
        atlas="AML.T0018, AML.T0043.004",
        tested_by="backdoor gate: trigger control, patch control, STRIP, mitigations and their re-activation",
        not_seen="triggers larger than the policy's patch, blended or semantic triggers",
        checks=("backdoor",),
    ),
)


def threat_table(policy: Policy, results: Sequence[GateResult]) -> list[dict[str, Any]]:
    """One record a threat: its row, whether it was tested, and each check's verdict, figure, interval and limit.

    `tested` is "passed", "failed" or "inconclusive" (the worst of its checks; a gate whose drill fell short is
    inconclusive), "not tested" with `why` where its gate has no result for this candidate, or "no gate".
    """
    return [_record(threat, policy, {r.gate: r for r in results}) for threat in THREATS]


def _record(threat: Threat, policy: Policy, results: dict[str, GateResult]) -> dict[str, Any]:
    rules = {rule.gate: rule for rule in policy.gates}
    checks, missing, verdicts = [], [], []
    for named in threat.checks:
        gate, _, only = named.partition(".")
        result = results.get(gate)
        if result is None:
            required = gate in rules and rules[gate].required
            missing.append(f"gate {gate} has no result" + ("" if required else " (the policy does not require it)"))
            continue
        own = [c for c in result.checks if only in ("", c.name)]
        if not own:
            missing.append(f"gate {gate} has not measured {only or 'anything'}")
            continue
        verdicts += [c.status for c in own]
        if result.drill is not None and not result.drill.trustworthy:
            verdicts.append("inconclusive")
        checks += [
            {
                "check": f"{gate}.{c.name}",
                "verdict": c.status,
                "observed": c.observed,
                "ci": c.ci,
                "limit": f"{c.op} {c.threshold:g}",
            }
            for c in own
        ]
    return {
        "threat": threat.name,
        "owasp_ml": threat.owasp,
        "mitre_atlas": threat.atlas,
        "tested": _worst(verdicts) if verdicts else "not tested" if threat.checks else "no gate",
        "why": "; ".join(missing),
        "checks": checks,
        "tested_by": threat.tested_by,
        "not_seen": threat.not_seen,
    }


def _worst(verdicts: Sequence[str]) -> str:
    return next(v for v in ("failed", "inconclusive", "passed") if v in verdicts)
