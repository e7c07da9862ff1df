"""Attacks that nothing in the pipeline was chosen on, through `vet` and the gate (`flows.zoo --only unnamed`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.measuring import Bench
from flows.zoo_cells import Natural, Taught
from flows.zoo_detection import detect
from flows.zoo_pipeline import by_teacher, send
from tasks.backdoor.zoo.plan import CLEAN, SIZES, ZooTeacher

VETTED = ("score", "verdict", "detectors")


def measure(
    bench: Bench, teachers: Sequence[ZooTeacher], student: str, limits: Mapping[str, float]
) -> Iterator[list[dict[str, Any]]]:
    """Rows, whole ones for a few more marks each time: what a mark does in the teacher, what `vet` says of that, what
    the pipeline leaves of it in the student, and what it does to the students of a clean teacher.

    Rows of marks that did not go through the pipeline yet hold what `vet` says alone.

    Args:
        teachers: the marked ones, and a clean one.
        student: the recipe, as JSON.
        limits: the policy's thresholds of the gate.

    Raises:
        GatehouseError: a teacher, or the clean one's students, could not be measured.
    """
    section, sizes = bench.context.params.backdoor.model_dump_json(), SIZES["simple_cnn"]
    marked = [t for t in teachers if t.attack != CLEAN]
    (clean,) = (t for t in teachers if t.attack == CLEAN)
    taught = by_teacher(bench.run([Taught(t) for t in teachers], "teachers"))
    natural = bench.run([Natural(clean, sizes, student, section, tuple(marked))], "a clean teacher's students")
    if bench.failed:
        bench.close()
    vetted = {row["attack"]: row for row in detect(bench.context, teachers, workers=bench.workers)["rows"]}
    begun = {t: t.as_json() | {"vet": {k: vetted[t.attack][k] for k in VETTED}} for t in teachers}
    rows = [begun[clean]]
    step = bench.workers * 2
    for begin in range(0, len(marked), step):
        some = marked[begin : begin + step]
        for t, found in send(bench, some, dict.fromkeys(some, student), limits).items():
            beside = (natural[0].result or {})[t.attack]
            rows.append(begun[t] | {"teacher": taught[t], "clean_teacher": beside} | found)
        yield [*rows, *(begun[t] for t in marked[begin + step :])]
