"""From measured curves to a gate's checks, with the gate itself put to the test.

What counts for a promotion is the gray box: whoever has the teacher can try it (study, section 3.2.1). The black box
counts where queries are cheap (C.2), the white box where internals are exposed (C.4), both at the smallest budget:
measured, networks that were not trained against attacks lose nearly every image at the larger ones, whatever else was
done for them, so only the smallest tells one from another.

Two things must hold before a figure counts. The attacks must behave as attacks do (tasks/evasion/sanity.py). And the
gate must fail students that are known to be easy prey, and must not fail the same students when noise takes the
attack's place (`drill`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tasks.evasion.distance import distances
from tasks.evasion.measure import Curve, Measured, judge
from tasks.evasion.sample import Sample, as_255
from tasks.evasion.threat_models import BLACK_BOX, GRAY_BOX, WHITE_BOX, ThreatModel
from tasks.gate import Check, Drill
from tasks.models.architectures import Classifier
from tasks.stats import clopper_pearson, proportion

METRICS = {
    GRAY_BOX.name: (-1, "share fooled by images crafted on the teacher alone"),
    BLACK_BOX.name: (0, "share fooled by an attacker who sees the candidate's answers alone"),
    WHITE_BOX.name: (0, "share fooled by an attacker who holds the candidate's weights"),
}


def success_check(curve: Curve, threshold: float) -> Check:
    """Success of a threat model's strongest attack at the budget that it is judged at, against the policy's limit."""
    at, metric = METRICS[curve.threat_model]
    fooled = curve.fooled[at]
    n = len(fooled)
    return Check(
        name=check_name(curve.threat_model),
        metric=f"{metric}, at {as_255(curve.budgets[at])}",
        observed=float(fooled.mean()) if n else None,
        ci=clopper_pearson(int(fooled.sum()), n) if n else None,
        op="<=",
        threshold=threshold,
        n=n,
    )


def check_name(threat_model: str) -> str:
    return f"{threat_model}_success"


def drill(
    students: Sequence[Classifier], crafted: Mapping[str, Tensor], noisy: Tensor, sample: Sample, budget: float,
    threshold: float,
) -> Drill:  # fmt: skip
    """Put the gray-box check to the test on students that copied the teacher whole.

    Planted: the check on such a student by the attack that is strongest on it, which must fail. Clean: the same check
    with noise of the same budget in the place of the attacks, which must not fail.

    Args:
        students: see tasks/evasion/reference.py.
        crafted, noisy: the images crafted from `sample` at `budget`, by attack, and the noisy ones.
    """
    caught = [_fails(s, crafted, sample, budget, threshold) for s in students]
    accused = [_fails(s, {"noise": noisy}, sample, budget, threshold) for s in students]
    return Drill(planted=len(caught), caught=sum(caught), clean=len(accused), accused=sum(accused))


def reference_curves(
    students: Sequence[Classifier], crafted: list[Tensor], sample: Sample, budgets: tuple[float, ...]
) -> list[list[float | None]]:
    """Success of crafted images on each reference student, over the images that this student gets right."""
    return [[_share(_own(s, images, sample, b)) for images, b in zip(crafted, budgets, strict=True)] for s in students]


def by_freeze(students: Mapping[str, Sequence[Classifier]], measured: Measured, budget: float) -> list[dict[str, Any]]:
    """Success of the attack that is strongest on each kind of student, at `budget`, JSON-ready; the candidate last.

    Args:
        students: by what they retrained, undefended ones; their images are pooled.
    """
    rows = []
    for trained, own in students.items():
        fooled = [_worst(s, measured.through_teacher, measured.sample, budget) for s in own]
        pooled = np.concatenate(fooled)
        rows.append({"trained": trained, "success": proportion(int(pooled.sum()), len(pooled))})
    own = measured.curves[GRAY_BOX.name].fooled[-1]
    return [*rows, {"trained": "the candidate", "success": proportion(int(own.sum()), len(own))}]


def points(measured: Measured, threat: ThreatModel) -> list[dict[str, Any]]:
    """JSON-ready: success among the images that were right, robust accuracy among all, a row a budget."""
    sample, curve, rows = measured.sample, measured.curves[threat.name], []
    for i, eps in enumerate(curve.budgets):
        fooled, k = int(curve.fooled[i].sum()), curve.fooled.shape[1]
        row: dict[str, Any] = {"eps": eps, "budget": as_255(eps), "success": proportion(fooled, k)}
        row["strongest"] = curve.strongest[i]
        row["robust_accuracy"] = proportion(k - fooled, sample.n)
        row |= distances(sample.x, measured.crafted[threat.name][i])
        if threat is BLACK_BOX:
            row["queries_mean"] = round(float(measured.queries[i].mean()), 2) if k else None
        rows.append(row)
    return rows


def _fails(student: Classifier, crafted: Mapping[str, Tensor], sample: Sample, budget: float, threshold: float) -> bool:
    """Whether the gray-box check fails this student on the images that fool it most."""
    worst = _worst(student, crafted, sample, budget)
    return success_check(Curve(GRAY_BOX.name, (budget,), worst[None]), threshold).status == "failed"


def _worst(student: Classifier, crafted: Mapping[str, Tensor], sample: Sample, budget: float) -> np.ndarray:
    return max((_own(student, images, sample, budget) for images in crafted.values()), key=lambda f: int(f.sum()))


def _own(student: Classifier, images: Tensor, sample: Sample, budget: float) -> np.ndarray:
    """Which of the images that the student gets right unchanged are wrong when crafted, bool (m,)."""
    clean, changed = (judge(student, [x], sample, (budget,), GRAY_BOX.name).fooled[0] for x in (sample.x, images))
    return changed[~clean]


def _share(fooled: np.ndarray) -> float | None:
    return float(fooled.mean()) if len(fooled) else None
