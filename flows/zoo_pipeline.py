"""Teachers sent through the pipeline, and beside it what their students are without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.cells import Done
from flows.measuring import Bench
from flows.zoo_cells import Protected, Unprotected
from tasks.backdoor.zoo.plan import SIZES, ZooTeacher
from tasks.params import Student

Results = dict[ZooTeacher, dict[str, Any]]


def send(
    bench: Bench, teachers: Sequence[ZooTeacher], students: Mapping[ZooTeacher, str], limits: Mapping[str, float]
) -> Results:
    """What the pipeline makes of each teacher, and `before` it what students without defence are.

    Args:
        students: each teacher's student's recipe, as JSON.
        limits: the policy's thresholds of the gate.
    """
    section = bench.context.params.backdoor.model_dump_json()
    plain = {t: Student.model_validate_json(students[t]).unprotected().identity() for t in teachers}
    before = by_teacher(
        bench.run([Unprotected(t, SIZES[t.architecture], plain[t], section) for t in teachers], "without defence")
    )
    cells = [Protected(t, SIZES[t.architecture], students[t], section, tuple(limits.items())) for t in teachers]
    after = by_teacher(bench.run(cells, "through the pipeline"))
    return {t: _joined(before[t], after[t]) for t in teachers if t in before and t in after}


def _joined(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    awake = after["reactivated"] | {"relearned_undefended": before["relearned"]}
    seconds = round(before["seconds"] + after["seconds"], 1)
    return {"before": before["before"], **after, "reactivated": awake, "seconds": seconds}


def by_teacher(outcomes: Sequence[Done]) -> Results:
    """The results of cells that name a teacher, with the processor's seconds."""
    return {o.cell.teacher: (o.result or {}) | {"seconds": round(o.cpu_seconds, 1)} for o in outcomes}
