"""Which features the student may train: the freeze policy that lets the least of the canaries through (study 4.3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.backdoor.drill import Cell
from tasks.models.architectures import Classifier
from tasks.models.freezing import trainable_blocks
from tasks.params import FreezePolicy

SAFER = 0.02  # a difference in mean control below this does not make a policy safer: it is within noise


@dataclass(frozen=True)
class Row:
    """One policy over the drill's defended students: mean balanced accuracy, mean and worst control (below 0 as 0)."""

    policy: FreezePolicy
    trainable_blocks: int
    accuracy: float
    trigger_control: float
    worst_trigger_control: float
    students: int

    def as_json(self) -> dict[str, Any]:
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Choice:
    """The freeze policy chosen, why, and the table that it was chosen from."""

    policy: FreezePolicy
    reason: str
    table: tuple[Row, ...]


def choose_policy(
    cells: Sequence[Cell], model: Classifier, *, accuracy_tolerance: float, safer: float = SAFER
) -> Choice:
    """The safest freeze policy among those whose accuracy is within the tolerance of the best.

    Safest: the lowest mean control of the canaries' triggers over defended students. Policies within `safer` of the
    lowest tie; the one with the most trainable blocks wins, as the study advises: as many as accuracy allows.
    """
    defended = [c for c in cells if c.kind == "canary" and c.arm == "defended"]
    rows = tuple(
        _row(p, [c for c in defended if c.policy == p], model) for p in dict.fromkeys(c.policy for c in defended)
    )
    best = max(r.accuracy for r in rows)
    accurate = [r for r in rows if r.accuracy >= best - accuracy_tolerance]
    lowest = min(r.trigger_control for r in accurate)
    tied = [r for r in accurate if r.trigger_control <= lowest + safer]
    chosen = max(tied, key=lambda r: (r.trainable_blocks, -r.trigger_control))
    reason = (
        f"with {chosen.policy} trainable the canaries keep a mean trigger control of {chosen.trigger_control:.2f} "
        f"at balanced accuracy {chosen.accuracy:.2f}"
    )
    if costly := [str(r.policy) for r in rows if r not in accurate]:
        reason += f"; {', '.join(costly)} would cost more than {accuracy_tolerance:.2f} of the best accuracy {best:.2f}"
    if len(tied) > 1:
        reason += (
            f"; {', '.join(str(r.policy) for r in tied)} are equally safe (within {safer:.2f}), and the most "
            "trainable layers are taken"
        )
    return Choice(chosen.policy, reason + ".", rows)


def _row(policy: FreezePolicy, cells: Sequence[Cell], model: Classifier) -> Row:
    return Row(
        policy,
        trainable_blocks(model, policy),
        float(np.mean([c.accuracy for c in cells])),
        float(np.mean([max(0.0, c.control.value) for c in cells])),
        max(0.0, *(c.control.value for c in cells)),
        len(cells),
    )
