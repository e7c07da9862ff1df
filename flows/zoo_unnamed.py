"""Attacks that nothing in the pipeline was chosen on, through `vet` and the gate (`flows.zoo --only unnamed`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.measuring import Bench
from flows.zoo_cells import Natural, Taught
from flows.zoo_detection import detect
from flows.zoo_pipeline import by_teacher, send
from tasks.backdoor.zoo.plan import CLEAN, SIZES, ZooTeacher

VETTED = ("score", "verdict", "detectors")


def measure(
    bench: Bench, teachers: Sequence[ZooTeacher], student: str, limits: Mapping[str, float], *, workers: int
) -> list[dict[str, Any]]:
    """A row a mark: what it does in the teacher, what `vet` says of it, what the pipeline leaves of it in the student,
    and what it does to the students of a clean teacher.

    Args:
        teachers: the marked ones, and a clean one.
        student: the recipe, as JSON.
        limits: the policy's thresholds of the gate.

    Raises:
        GatehouseError: something could not be measured.
    """
    section, sizes = bench.context.params.backdoor.model_dump_json(), SIZES["simple_cnn"]
    marked = [t for t in teachers if t.attack != CLEAN]
    (clean,) = (t for t in teachers if t.attack == CLEAN)
    taught = by_teacher(bench.run([Taught(t) for t in teachers], "teachers"))
    natural = bench.run([Natural(clean, tuple(marked), sizes, student, section)], "a clean teacher's students")
    done = send(bench, marked, dict.fromkeys(marked, student), limits)
    bench.close()  # no table of some marks alone; what was measured is kept for the next call
    vetted = {row["attack"]: row for row in detect(bench.context, teachers, workers=workers)["rows"]}
    rows = []
    for t in teachers:
        row = t.as_json() | {"vet": {k: vetted[t.attack][k] for k in VETTED}}
        if t in done:
            row |= {"teacher": taught[t], "clean_teacher": (natural[0].result or {})[t.attack]} | done[t]
        rows.append(row)
    return rows
