"""Everything on the page as plain records, in the order in which it is read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tasks.gate import Check, GateResult
from tasks.promotion.decision import Decision, Reason, result_candidate
from tasks.promotion.dossier.chapters import chapters
from tasks.promotion.dossier.chapters.gate_reports import gate_report
from tasks.promotion.dossier.intervals import picture
from tasks.promotion.dossier.reports import CANDIDATES, Reports
from tasks.promotion.dossier.words import GLOSSARY, MEANINGS, QUESTIONS, humane, interval, number, short
from tasks.promotion.statement import Predicate
from tasks.risk import Policy

COMMAND = "make run"


def page(
    reports: Reports, decision: Decision, predicate: Predicate, version: str | None, model_name: str, signed_by: str
) -> dict[str, Any]:
    """The template's variables."""
    policy = reports.policy()
    own = reports.gates(decision.candidate)
    return {
        "title": f"Security dossier of {model_name}",
        "model_name": model_name,
        "verdict": _verdict(decision, predicate, version, policy, signed_by),
        "reasons": [_reason(r) for r in decision.reasons],
        "notes": [n for n in decision.notes if n != decision.comparison.why],
        "gates": _gate_rows(reports, policy, decision),
        "evidence": [_gate(reports, gate, result, decision) for gate, result in own.items()],
        "chapters": chapters(reports, decision.candidate),
        "policy": _policy(policy),
        "origin": _origin(predicate),
        "digests": _digests(decision, predicate),
        "glossary": GLOSSARY,
        "command": COMMAND,
    }


def _verdict(
    decision: Decision, predicate: Predicate, version: str | None, policy: Policy, signed_by: str
) -> dict[str, Any]:
    promoted = decision.decision == "promoted"
    gates = policy.required()
    if promoted:
        why = (
            f"All {len(gates)} gates that the policy requires ({', '.join(gates)}) passed on exactly these weights, "
            "with the unfavourable end of every interval inside its limit. "
        )
    else:
        failing = sorted({r.gate for r in decision.reasons}, key=[*gates, "champion"].index)
        kinds = {r.status for r in decision.reasons}
        how = "failed" if kinds == {"failed"} else "did not pass"
        count = len(decision.reasons)
        why = (
            f"{_list(failing)} {how}: {count} {'reason speaks' if count == 1 else 'reasons speak'} against promotion, "
            "each listed below with the next step. No alias was given; what served before still serves. "
        )
    return {
        "word": "Promoted" if promoted else "Refused",
        "state": "passed" if promoted else "failed",
        "why": why + decision.comparison.why,
        "facts": [
            ("Candidate", humane(decision.candidate)),
            ("Weights (SHA-256)", decision.sha256),
            ("Version", f"{version}, alias champion" if promoted else "none"),
            ("Decided", _date(predicate.decided_at)),
            ("Policy", short(policy.sha256)),
            ("Signed with key", short(signed_by)),
        ],
    }


def _list(names: list[str]) -> str:
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return text[:1].upper() + text[1:]


def _date(moment: datetime) -> str:
    return moment.strftime("%-d %B %Y, %H:%M UTC")


def _reason(reason: Reason) -> dict[str, Any]:
    measured = reason.threshold is not None
    words = {"<=": "at most", ">=": "at least"}
    facts = [
        ("Measured", number(reason.observed)),
        ("Interval", interval(*(reason.ci or (None, None)))),
        ("Must be", f"{words.get(reason.op, '')} {number(reason.threshold)}"),
        ("Missed by", number(reason.by) if reason.by is not None else "not decidable"),
    ]
    return {
        "gate": humane(reason.gate),
        "check": humane(reason.check),
        "state": reason.status if reason.status in ("failed", "inconclusive") else "inconclusive",
        "word": reason.status,
        "meaning": MEANINGS.get(f"{reason.gate}.{reason.check}", reason.metric),
        "sentence": "" if measured else reason.sentence,
        "facts": facts if measured else [],
        "next_step": reason.next_step,
    }


def _gate_rows(reports: Reports, policy: Policy, decision: Decision) -> list[dict[str, Any]]:
    """One row a gate and candidate, the promoted candidate first; gates on data and teacher once."""
    rows = []
    candidate = decision.candidate
    unbound = {r.gate for r in decision.reasons if r.status in ("unbound", "missing")}
    for other in (candidate, *(c for c in CANDIDATES if c != candidate)):
        for rule, result in zip(policy.gates, reports.gates(other).values(), strict=True):
            shared = result_candidate(rule.gate, other) != other
            if other != candidate and shared:
                continue
            required = rule.required and other == candidate
            rows.append(
                {
                    "gate": humane(rule.gate),
                    "anchor": f"gate-{rule.gate}" if other == candidate else "",
                    "of": humane(result_candidate(rule.gate, other)),
                    "verdict": result.verdict if isinstance(result, GateResult) else "missing",
                    "void": required and rule.gate in unbound,
                    "required": required,
                    "why": rule.why if other == candidate else "Judged for comparison; it is not the one to promote.",
                    "drill": _drill_short(result) if isinstance(result, GateResult) else "–",
                }
            )
    return rows


def _drill_short(result: GateResult) -> str:
    if result.drill is None:
        return "–"
    drill, (low, high) = result.drill, result.drill.power
    caught, accused = f"{drill.caught} of {drill.planted} caught", f"{drill.accused} of {drill.clean} clean accused"
    return f"{caught} (power {low:.2f} to {high:.2f}), {accused}"


def _gate(reports: Reports, gate: str, result: GateResult | str, decision: Decision) -> dict[str, Any]:
    void = any(r.gate == gate and r.status in ("unbound", "missing") for r in decision.reasons)
    base = {"gate": gate, "void": void, "title": humane(gate), "question": QUESTIONS.get(gate, "")}
    if isinstance(result, str):
        empty: dict[str, Any] = {"checks": [], "drill": "", "assumptions": (), "limits": (), "figures": [], "facts": []}
        return {**base, **empty, "verdict": "missing", "missing": result, "subject": ""}
    name = f"{gate}@{result.candidate}"
    return {
        **base,
        "verdict": result.verdict,
        "missing": "",
        "subject": f"{humane(result.candidate)}, {short(result.subject.sha256)}",
        "checks": [_check(gate, c) for c in result.checks],
        "drill": _drill(result),
        "assumptions": result.assumptions,
        "limits": result.limits,
        "figures": reports.figures(name) if result.candidate in CANDIDATES else [],
        "facts": gate_report(gate, reports.json(name)) if result.candidate in CANDIDATES else [],
    }


def _check(gate: str, check: Check) -> dict[str, Any]:
    return {
        "name": humane(check.name),
        "meaning": MEANINGS.get(f"{gate}.{check.name}", check.metric),
        "observed": _counted(check, check.observed),
        "unit": "" if check.unit in ("share", "fraction") else check.unit,
        "interval": "exact" if _is_count(check) else interval(*(check.ci or (None, None))),
        "limit": f"{'at most' if check.op == '<=' else 'at least'} {_counted(check, check.threshold)}",
        "n": number(check.n),
        "state": check.status,
        "picture": picture(check),
    }


def _counted(check: Check, value: float | None) -> str:
    return number(int(value)) if value is not None and _is_count(check) else number(value)


def _is_count(check: Check) -> bool:
    """Computed exactly, and whole: shown without decimals."""
    whole = all(v is not None and float(v).is_integer() for v in (check.observed, check.threshold))
    return whole and check.ci is not None and check.ci[0] == check.ci[1]


def _drill(result: GateResult) -> str:
    drill = result.drill
    if drill is None:
        return ""
    power, alarms = drill.power, drill.false_alarms
    trust = "can be relied on" if drill.trustworthy else "cannot be relied on, so passing would prove nothing"
    return (
        f"The gate was tried on models whose truth is known. Of {drill.planted} in which the flaw had been planted it "
        f"caught {drill.caught} (with 95 % confidence it catches {power[0]:.0%} to {power[1]:.0%} of such), and of "
        f"{drill.clean} clean ones it accused {drill.accused} ({alarms[0]:.0%} to {alarms[1]:.0%}). By the pipeline's "
        f"rule it {trust}."
    )


def _policy(policy: Policy) -> dict[str, Any]:
    return {
        "gates": [(humane(r.gate), "required" if r.required else "not required", r.why) for r in policy.gates],
        "thresholds": [
            (humane(k.split(".")[0]), humane(k.split(".", 1)[1]), number(v), policy.threshold_why.get(k, ""))
            for k, v in policy.thresholds.items()
        ],
        "candidate": (humane(policy.candidate), policy.candidate_why),
        "output": (humane(policy.output), policy.output_why),
        "sha256": policy.sha256,
    }


def _digests(decision: Decision, predicate: Predicate) -> list[tuple[str, dict[str, str]]]:
    rows = {"Candidate's weights": decision.sha256}
    rows |= {f"Parent: {humane(k).lower()}": v for k, v in predicate.parents.items()}
    rows |= {"Policy (its content)": predicate.policy["content"]}
    rows |= {f"Gate result {g.file}": g.sha256 for g in predicate.gates}
    rows |= {f"File {k}": v for k, v in predicate.files.items()}
    return [(name, {"mono": sha256}) for name, sha256 in rows.items()]


def _origin(predicate: Predicate) -> dict[str, Any]:
    code = predicate.code
    return {
        "code": f"{code['revision']} ({code['state']})" if code else "not a git checkout",
        "tools": list(predicate.tools.items()),
    }
