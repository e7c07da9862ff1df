"""The data gate's checks, from what was measured on both tasks; and the memory of what a source held before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from tasks.data.prepare import Overlap, Prepared
from tasks.data.shortcut import Told
from tasks.gate import Check
from tasks.stats import clopper_pearson

SourceStatus = Literal["first seen", "unchanged", "changed", "undeclared"]
Threshold = Callable[[str], float]  # of a check of this gate, by name

ASSUMPTIONS = (
    "File names carry the patient where the source declares patients; images without one are taken as unrelated.",
    "The teacher's training data are those declared in data.teacher_task; what else it saw is not known here.",
)
LIMITS = (
    "Near copies are found where a perceptual hash is close; crops, flips and other exposures of one patient are not.",
    "The shortcut probe sees border and corners only; a shortcut inside the lungs (contrast, texture) goes unseen.",
    "After a crop the border may hold parts of the lungs, so that disease itself can raise the probe's figure.",
    "Labels are not checked against a physician's reading, beyond one content under two labels.",
)


def source_status(memory: dict[str, Any], key: str, declared: str, digest: str) -> SourceStatus:
    """Compare a source's digest with the one remembered under the same declaration.

    Args:
        memory: `{key: {"sha256", "records"}}`, as `remember` makes it.
    """
    if not declared.strip():
        return "undeclared"
    if key not in memory:
        return "first seen"
    return "unchanged" if memory[key]["sha256"] == digest else "changed"


def remember(memory: dict[str, Any], key: str, digest: str, records: int) -> dict[str, Any]:
    """The memory with this source in it. What is known stays: a change is forgiven by a new declaration only."""
    return {key: {"sha256": digest, "records": records}, **memory}


def data_checks(
    teacher: Prepared,
    student: Prepared,
    *,
    expectations: list[dict[str, Any]],
    leaked: int,
    overlap: Overlap,
    sources: list[SourceStatus],
    told: dict[str, Told],
    threshold: Threshold,
) -> tuple[Check, ...]:
    """All checks of the data gate.

    Args:
        expectations: rows of `expect` on both manifests. leaked: sum of `leaks` over both tasks.
        told: the probe on the student's images as written, of `border` and `corners`.
    """
    kept = sum(len(p.manifest) for p in (teacher, student))
    failed = sum(not e["passed"] for e in expectations)
    changed = sum(s in ("changed", "undeclared") for s in sources)
    region = max(("border", "corners"), key=lambda r: told[r].gain_ci[1])
    return (
        _count(
            "expectations_failed", "expectations on the manifests that failed", failed, len(expectations), threshold
        ),
        _worst_share(
            "unreadable_share",
            "share of records unreadable or blank",
            [(_unusable(p), _records(p)) for p in (teacher, student)],
            threshold,
        ),
        _worst_share(
            "quarantined_share",
            "share of records dropped for any reason",
            [(len(p.cleaned.quarantined), _records(p)) for p in (teacher, student)],
            threshold,
        ),
        _worst_share(
            "conflicting_label_share",
            "share of records whose picture stands under two labels",
            [(p.cleaned.conflicting, _records(p)) for p in (teacher, student)],
            threshold,
        ),
        _count("split_leaks", "pictures, near copies or patients in two splits", leaked, kept, threshold),
        _worst_share(
            "teacher_overlap_share",
            "share of the student's images that the teacher's training data hold",
            [(int(overlap.either.sum()), len(overlap.either))],
            threshold,
        ),
        _smallest_class((teacher, student), threshold),
        _count("source_changes", "sources undeclared, or changed since first seen", changed, len(sources), threshold),
        Check(
            name="shortcut_balanced_accuracy_gain",
            metric=f"label told from the {region} alone, between chance (0) and always (1)",
            observed=told[region].gain,
            ci=told[region].gain_ci,
            op="<=",
            threshold=threshold("shortcut_balanced_accuracy_gain"),
            n=told[region].n,
        ),
    )


def _records(prepared: Prepared) -> int:
    return len(prepared.reading.records) + len(prepared.reading.unreadable)


def _unusable(prepared: Prepared) -> int:
    return len(prepared.reading.unreadable) + int(prepared.reading.blank.sum())


def _count(name: str, metric: str, observed: int, n: int, threshold: Threshold) -> Check:
    return Check(
        name=name, metric=metric, observed=observed, ci=(observed, observed), op="<=", threshold=threshold(name), n=n
    )


def _worst_share(name: str, metric: str, counts: list[tuple[int, int]], threshold: Threshold) -> Check:
    """The task with the worse upper end of its Clopper–Pearson interval."""
    hit, n = max(counts, key=lambda c: clopper_pearson(*c)[1])
    share = hit / n if n else None
    return Check(
        name=name,
        metric=metric,
        observed=share,
        ci=clopper_pearson(hit, n),
        op="<=",
        threshold=threshold(name),
        n=n,
    )


def _smallest_class(tasks: tuple[Prepared, ...], threshold: Threshold) -> Check:
    shares = []
    for prepared in tasks:
        counts = np.bincount(prepared.labels, minlength=len(prepared.classes))
        shares.append((int(counts.min()), int(counts.sum())))
    hit, n = min(shares, key=lambda c: clopper_pearson(*c)[0])
    return Check(
        name="smallest_class_share_minimum",
        metric="share of the rarest class",
        observed=hit / n if n else None,
        ci=clopper_pearson(hit, n),
        op=">=",
        threshold=threshold("smallest_class_share_minimum"),
        n=n,
    )
