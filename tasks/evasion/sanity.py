"""Do the attacks behave as sound attacks do? Where they do not, their failure proves nothing.

The conditions follow Carlini 2019 (section 4) and Athalye 2018: a model that hides its gradients shows it by falling
to an attack that needs none, to one from another model, or to noise, where the white box fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.evasion.measure import Curve, Measured
from tasks.evasion.sample import as_255
from tasks.evasion.threat_models import BLACK_BOX, GRAY_BOX, NOISE, WHITE_BOX
from tasks.gate import Check, Frozen
from tasks.stats import paired_difference

LARGE_BUDGET = 0.5  # at half the range of a pixel an image can be made gray: an attack that still misses is broken
LARGE_BUDGET_IMAGES = 64
LARGE_BUDGET_SUCCESS = 0.9


class Sanity(Frozen):
    """One condition that sound attacks meet. `holds` is None where it could not be looked at."""

    name: str
    holds: bool | None
    figure: str


def sanity_check(conditions: Sequence[Sanity]) -> Check:
    """All conditions must hold; where one does not, nothing was measured and the gate is inconclusive."""
    sound = bool(conditions) and all(c.holds for c in conditions)
    return Check(
        name="attack_sanity",
        metric="conditions that sound attacks meet",
        observed=len(conditions) if sound else None,
        ci=(len(conditions), len(conditions)) if sound else None,
        op=">=",
        threshold=len(conditions),
        n=len(conditions),
    )


def sanity(measured: Measured, at_large_budget: np.ndarray) -> tuple[Sanity, ...]:
    """The conditions, on paired images; "beyond noise" is beyond a 95 % interval of the paired difference.

    Args:
        at_large_budget: which images the white box fooled at LARGE_BUDGET, bool (m,).
    """
    white, gray, black, noise = (measured.curves[t.name] for t in (WHITE_BOX, GRAY_BOX, BLACK_BOX, NOISE))
    return (
        *(_rises(curve) for curve in (white, gray, black)),
        _more_steps(white.fooled[0], measured.fewer_steps),
        *(_stronger(white, weaker) for weaker in (gray, black, noise)),
        *(_stronger(attack, noise) for attack in (gray, black)),
        Sanity(
            name="large_budget_succeeds",
            holds=bool(at_large_budget.mean() >= LARGE_BUDGET_SUCCESS) if len(at_large_budget) else None,
            figure=f"the white box at {as_255(LARGE_BUDGET)} fools {int(at_large_budget.sum())} of "
            f"{len(at_large_budget)}",
        ),
    )


def _rises(curve: Curve) -> Sanity:
    """Success does not fall as the budget grows, from any budget to any larger one."""
    drops = [
        (later, earlier)
        for later in range(len(curve.budgets))
        for earlier in range(later)
        if _below(curve.fooled[later], curve.fooled[earlier])
    ]
    rates = ", ".join(f"{f.mean():.2f}" for f in curve.fooled if len(f))
    return Sanity(
        name=f"{curve.threat_model}_rises_with_budget",
        holds=None if curve.fooled.shape[1] == 0 else not drops,
        figure=f"success {rates or 'not measured'}",
    )


def _more_steps(many: np.ndarray, few: np.ndarray) -> Sanity:
    """The white box, at the smallest budget, does not succeed less often for having more steps."""
    return Sanity(
        name="more_steps_do_not_hurt",
        holds=not _below(many, few) if len(many) else None,
        figure=f"{many.mean():.2f} against {few.mean():.2f} with a quarter of them" if len(many) else "not measured",
    )


def _stronger(strong: Curve, weak: Curve) -> Sanity:
    """At no budget is the attack that knows more weaker than the one that knows less."""
    empty = strong.fooled.shape[1] == 0
    worse = [i for i in range(len(strong.budgets)) if _below(strong.fooled[i], weak.fooled[i])]
    pairs = [(s.mean(), w.mean()) for s, w in zip(strong.fooled, weak.fooled, strict=True) if len(s)]
    return Sanity(
        name=f"{strong.threat_model}_at_least_{weak.threat_model}",
        holds=None if empty else not worse,
        figure=", ".join(f"{s:.2f} against {w:.2f}" for s, w in pairs) or "not measured",
    )


def _below(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a's rate lies below b's by more than chance explains."""
    return len(a) > 0 and paired_difference(a, b)[1] < 0
