"""The ladder of mitigations: each is tried on the candidate as trained and judged, until one passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.backdoor.judge import Judged
from tasks.backdoor.mitigation import Given, mitigate
from tasks.gate import Check
from tasks.models.architectures import Classifier
from tasks.params import Mitigation

AS_TRAINED = "as trained"


@dataclass(frozen=True)
class Attempt:
    """A model and what the gate says of it."""

    name: str  # AS_TRAINED, or the mitigation's
    model: Classifier
    judged: Judged
    checks: tuple[Check, ...]
    note: dict[str, Any]  # of the mitigation

    @property
    def passes(self) -> bool:
        return all(c.status == "passed" for c in self.checks)


def climb(
    original: Attempt,
    rungs: Sequence[Mitigation],
    given: Given,
    judged: Callable[[str, Classifier, dict[str, Any]], Attempt],
    *,
    progress: Callable[[str, int], None] | None = None,
) -> list[Attempt]:
    """All attempts, the original first; `rungs` are tried in order until one passes, none where the original does.

    Each starts from the original's model. The triggers that the methods are given are those that the gate's own search
    found on it, never anybody's planted ones; `given` says the rest.

    Args:
        judged: puts the gate's question to a mitigated model: (name, model, note) -> attempt.
        progress: called as (name, epochs or rounds done).
    """
    found = original.judged.found
    triggers = tuple(p.trigger for p in (*found.patches, *found.simple_patches))
    attempts = [original]
    for name in rungs:
        if attempts[-1].passes:
            break
        told = (lambda done, n=name: progress(n, done)) if progress else None
        mitigated = mitigate(name, replace(given, model=original.model, triggers=triggers, progress=told))
        attempts.append(judged(name, mitigated.model, mitigated.note))
    return attempts


def kept(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt that passes, which is the last; the original where none does."""
    return attempts[-1] if attempts[-1].passes else attempts[0]
