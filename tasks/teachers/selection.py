"""The choice among candidate teachers: who is refused and why, and who of the rest is best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from tasks.errors import GatehouseError
from tasks.teachers.card import TRUST, Offer
from tasks.teachers.case import Accuracy, Case, OwnTask, Rules, open_case
from tasks.teachers.checks import BINDING, Finding, check_waivers, run_checks


@dataclass(frozen=True)
class Rank:
    """What makes one candidate better than another, most important first (study, section 4.3.1).

    A teacher that vetting calls tampered comes last, whoever signed it. A card can claim any trust, so it counts only
    behind a signature with a trusted key. A teacher that anybody can get ranks lower: attackers can craft inputs on it.
    """

    not_accused: int
    trust: int
    signed: int
    disclosed: int
    not_public: int
    accuracy: float

    @property
    def key(self) -> tuple[float, ...]:
        return tuple(asdict(self).values())


@dataclass(frozen=True)
class Verdict:
    """What was found of one candidate."""

    case: Case
    findings: tuple[Finding, ...]
    rank: Rank
    vetting: Mapping[str, Any] | None = None  # the report of `flows.vetting`; None: not vetted

    @property
    def name(self) -> str:
        return self.case.offer.card.name

    @property
    def accuracy(self) -> Accuracy | None:
        return self.case.accuracy

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.status == "fail" and not f.waived)

    @property
    def waived(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.waived)

    @property
    def accepted(self) -> bool:
        return not self.refusals and self.case.model is not None

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        card = self.case.offer.card
        return {
            "name": self.name,
            "provider": card.provider.name,
            "architecture": card.architecture,
            "sha256": self.case.sha256,
            "accepted": self.accepted,
            "checks": [asdict(f) for f in self.findings],
            "reasons": [f"{f.name}: {f.evidence}" for f in self.refusals],
            "waived": [f.name for f in self.waived],
            "accuracy": asdict(self.accuracy) if self.accuracy else None,
            "claimed_accuracy": card.claimed_accuracy,
            "rank_key": asdict(self.rank),
            "vetting": self.vetting,
        }

    def vetted(self, report: Mapping[str, Any]) -> Verdict:
        """The same candidate with its vetting: one that is called tampered ranks behind all that are not."""
        return replace(self, vetting=report, rank=replace(self.rank, not_accused=int(report["verdict"] != "tampered")))


def examine(offer: Offer, rules: Rules, task: OwnTask, waive: tuple[str, ...]) -> Verdict:
    """Open one candidate as far as is safe, run every check, and rank it."""
    case = open_case(offer, rules, task)
    findings = run_checks(case, waive)
    passed = {f.name: f.status == "pass" for f in findings}
    rank = Rank(
        not_accused=1,
        trust=TRUST.index(offer.card.provider.trust) if passed["signature"] else 0,
        signed=int(passed["signature"]),
        disclosed=int(passed["disclosed_data"]),
        not_public=int(not offer.card.public),
        accuracy=round(case.accuracy.value, 6) if case.accuracy else 0.0,
    )
    return Verdict(case, findings, rank)


def examine_all(
    offers: list[Offer],
    rules: Rules,
    task: OwnTask,
    waive: tuple[str, ...],
    *,
    progress: Callable[[int, Verdict], None] | None = None,
) -> list[Verdict]:
    """Examine every candidate, in the order of the cards."""
    check_waivers(waive)
    verdicts = []
    for offer in offers:
        verdicts.append(examine(offer, rules, task, waive))
        if progress:
            progress(len(verdicts), verdicts[-1])
    return verdicts


def choose(verdicts: list[Verdict]) -> Verdict:
    """The best of the accepted; of equals the one listed first.

    Raises GatehouseError, naming every refusal and what to do, where none was accepted.
    """
    accepted = [v for v in verdicts if v.accepted]
    if not accepted:
        refused = "; ".join(f"{v.name} ({', '.join(f.name for f in v.refusals)})" for v in verdicts)
        loadable = any(not {f.name for f in v.refusals} & set(BINDING) for v in verdicts)
        waive = ", or name in teacher.waive the failures you accept" if loadable else ""
        raise GatehouseError(
            f"No candidate teacher can be used, each was refused: {refused}; reports/teacher.json holds the evidence: "
            f"list another card in teacher.cards of params.yaml{waive}."
        )
    return max(accepted, key=lambda v: v.rank.key)


def why(chosen: Verdict, verdicts: list[Verdict]) -> str:
    """One sentence: what set the chosen one apart."""
    others = [v for v in verdicts if v.accepted and v is not chosen]
    cautions = f", with failures waived: {', '.join(f.name for f in chosen.waived)}" if chosen.waived else ""
    if not chosen.rank.not_accused:
        cautions += "; vetting calls it tampered"
    if len(verdicts) == 1:
        return f"{chosen.name} is the only candidate, and it was not refused{cautions}."
    if not others:
        return f"{chosen.name} is the only one of {len(verdicts)} candidates that was not refused{cautions}."
    second = max(others, key=lambda v: v.rank.key)
    first, next_ = asdict(chosen.rank), asdict(second.rank)
    reason = next(
        (f"{k} {first[k]:g} against {next_[k]:g}" for k in first if first[k] != next_[k]), "being listed first"
    )
    return f"{chosen.name} ranks before {second.name} by {reason}{cautions}."
