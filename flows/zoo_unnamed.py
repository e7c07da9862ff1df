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
    """
    section, sizes = bench.context.params.backdoor.model_dump_json(), SIZES["simple_cnn"]
    marked = [t for t in teachers if t.attack != CLEAN]
    (clean,) = (t for t in teachers if t.attack == CLEAN)
    taught = by_teacher(bench.run([Taught(t) for t in teachers], "teachers"))
    natural = bench.run([Natural(clean, tuple(marked), sizes, student, section)], "a clean teacher's students")
    done = send(bench, marked, dict.fromkeys(marked, student), limits)
    rows = {t: t.as_json() | {"teacher": taught.get(t)} | found for t, found in done.items()}
    if natural:
        for t, row in rows.items():
            row["clean_teacher"] = (natural[0].result or {})[t.attack]
    vetted = {row["attack"]: row for row in detect(bench.context, [clean, *rows], workers=workers)["rows"]}
    clean_row = clean.as_json() | {"vet": {k: vetted[CLEAN][k] for k in VETTED}}
    return [*(r | {"vet": {k: vetted[r["attack"]][k] for k in VETTED}} for r in rows.values()), clean_row]
