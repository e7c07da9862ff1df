"""From measured curves to a gate's checks, with the gate itself put to the test.

What counts for a promotion is the gray box: whoever has the teacher can try it (study, section 3.2.1). The white box
counts where internals are exposed (C.4), and then at the smallest budget: measured, networks that were not trained
against attacks lose nearly every image at the larger ones, whatever else was done for them, so only the smallest
tells one from another.

Two things must hold before a figure counts. The attacks must behave as attacks do (`sanity`; the conditions follow
Carlini 2019, section 4). And the gate must fail students that are known to be easy prey, and must not fail the same
students when noise takes the attack's place (`drill`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tasks.evasion.measure import Curve, Measured, Sample, as_255, judge
from tasks.evasion.threat_models import GRAY_BOX, NOISE, THREAT_MODELS, WHITE_BOX
from tasks.gate import Check, Drill, Frozen
from tasks.models.architectures import Classifier
from tasks.stats import clopper_pearson, paired_difference

LARGE_BUDGET = 0.5  # at half the range of a pixel an image can be made gray: an attack that still misses is broken
LARGE_BUDGET_IMAGES = 64
LARGE_BUDGET_SUCCESS = 0.9


class Sanity(Frozen):
    """One condition that sound attacks meet. `holds` is None where it could not be looked at."""

    name: str
    holds: bool | None
    figure: str


def mimicry_check(curve: Curve, threshold: float) -> Check:
    return _success(curve, -1, "mimicry_success", "share fooled by images crafted on the teacher alone", threshold)


def pgd_check(curve: Curve, threshold: float) -> Check:
    return _success(curve, 0, "pgd_success", "share fooled by PGD on the candidate's weights", threshold)


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
        at_large_budget: which images PGD fooled at LARGE_BUDGET, bool (m,).
    """
    white, gray, noise = (measured.curves[model.name] for model in (WHITE_BOX, GRAY_BOX, NOISE))
    return (
        *(_rises(curve) for curve in (white, gray)),
        _stronger("white_box_at_least_gray_box", white, gray),
        _stronger("white_box_at_least_noise", white, noise),
        Sanity(
            name="large_budget_succeeds",
            holds=bool(at_large_budget.mean() >= LARGE_BUDGET_SUCCESS) if len(at_large_budget) else None,
            figure=f"PGD at {as_255(LARGE_BUDGET)} fools {int(at_large_budget.sum())} of {len(at_large_budget)}",
        ),
    )


def drill(
    students: Sequence[Classifier], mimicked: Tensor, noisy: Tensor, sample: Sample, budget: float, threshold: float
) -> Drill:
    """Put the mimicry check to the test on students that copied the teacher whole.

    Planted: the check on such a student, which must fail. Clean: the same check with noise of the same budget in the
    place of the attack, which must not fail.

    Args:
        students: see tasks/evasion/reference.py.
        mimicked, noisy: the images crafted from `sample` at `budget`.
    """
    caught = [_reference(s, mimicked, sample, budget, threshold) for s in students]
    accused = [_reference(s, noisy, sample, budget, threshold) for s in students]
    return Drill(planted=len(caught), caught=sum(caught), clean=len(accused), accused=sum(accused))


def reference_curves(
    students: Sequence[Classifier], crafted: list[Tensor], sample: Sample, budgets: tuple[float, ...]
) -> list[list[float | None]]:
    """Success of crafted images on each reference student, over the images that this student gets right."""
    return [[_share(_own(s, images, sample, b)) for images, b in zip(crafted, budgets, strict=True)] for s in students]


def points(curve: Curve, sample: Sample) -> list[dict[str, Any]]:
    """JSON-ready: success among the images that were right, robust accuracy among all, a row a budget."""
    rows = []
    for i, eps in enumerate(curve.budgets):
        fooled, k = int(curve.fooled[i].sum()), curve.fooled.shape[1]
        row = {"eps": eps, "budget": as_255(eps), "success": proportion(fooled, k)}
        row["targeted_success"] = None if curve.targeted is None else proportion(int(curve.targeted[i].sum()), k)
        row["robust_accuracy"] = proportion(k - fooled, sample.n)
        rows.append(row)
    return rows


def proportion(count: int, n: int) -> dict[str, float | int | None]:
    low, high = clopper_pearson(count, n)
    return {"value": round(count / n, 6) if n else None, "low": round(low, 6), "high": round(high, 6), "n": n}


def _success(curve: Curve, at: int, name: str, metric: str, threshold: float) -> Check:
    fooled = curve.fooled[at]
    n = len(fooled)
    return Check(
        name=name,
        metric=f"{metric}, at {as_255(curve.budgets[at])}",
        observed=float(fooled.mean()) if n else None,
        ci=clopper_pearson(int(fooled.sum()), n) if n else None,
        op="<=",
        threshold=threshold,
        n=n,
    )


def _rises(curve: Curve) -> Sanity:
    """Success does not fall as the budget grows, from any budget to any larger one."""
    drops = [
        (later, earlier)
        for later in range(len(curve.budgets))
        for earlier in range(later)
        if _below(curve.fooled[later], curve.fooled[earlier])
    ]
    rates = ", ".join(f"{_share(f):.2f}" for f in curve.fooled if len(f))
    title = next(model.name for model in THREAT_MODELS if model.name == curve.threat_model)
    return Sanity(
        name=f"{title}_rises_with_budget",
        holds=None if curve.fooled.shape[1] == 0 else not drops,
        figure=f"success {rates or 'not measured'}",
    )


def _stronger(name: str, strong: Curve, weak: Curve) -> Sanity:
    """At no budget is the attack that knows more weaker than the one that knows less."""
    empty = strong.fooled.shape[1] == 0
    worse = [i for i in range(len(strong.budgets)) if _below(strong.fooled[i], weak.fooled[i])]
    pairs = [(_share(s), _share(w)) for s, w in zip(strong.fooled, weak.fooled, strict=True)]
    return Sanity(
        name=name,
        holds=None if empty else not worse,
        figure="not measured" if empty else ", ".join(f"{s:.2f} against {w:.2f}" for s, w in pairs),
    )


def _below(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a's rate lies below b's by more than chance explains."""
    return len(a) > 0 and paired_difference(a, b)[1] < 0


def _reference(student: Classifier, images: Tensor, sample: Sample, budget: float, threshold: float) -> bool:
    """Whether the mimicry check fails this student on these images."""
    fooled = _own(student, images, sample, budget)
    curve = Curve(GRAY_BOX.name, (budget,), fooled[None])
    return mimicry_check(curve, threshold).status == "failed"


def _own(student: Classifier, images: Tensor, sample: Sample, budget: float) -> np.ndarray:
    """Which of the images that the student gets right unchanged are wrong when crafted, bool (m,)."""
    clean, crafted = (judge(student, [x], sample, (budget,), GRAY_BOX.name).fooled[0] for x in (sample.x, images))
    return crafted[~clean]


def _share(fooled: np.ndarray) -> float | None:
    return float(fooled.mean()) if len(fooled) else None
