"""Students of several teachers that vote, one of the teachers backdoored (study 4.3.3): is it outvoted?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.backdoor.drill import student_of
from tasks.backdoor.ensemble import measure_ensemble
from tasks.backdoor.triggers import Mark
from tasks.backdoor.zoo.protect import Bench
from tasks.models.architectures import Classifier


def outvote(teachers: Sequence[Classifier], trigger: Mark, bench: Bench) -> dict[str, Any]:
    """What the trigger steers in the first teacher's student alone, and in all students by vote.

    Students are trained without defence on frozen features, where a backdoor transfers most: what is left is the
    vote's work alone.

    Args:
        teachers: the backdoored one first, with the trigger; the others clean.
    """
    plain, count, parts = bench.recipe.undefended(), len(bench.classes), (bench.train, bench.val)
    students = [student_of(t, count, *parts, plain, policy="none", seed=bench.seed) for t in teachers]
    votes = {
        "alone": measure_ensemble(students[:1], bench.test, trigger, rule="majority"),
        "majority": measure_ensemble(students, bench.test, trigger, rule="majority"),
        "unanimous": measure_ensemble(students, bench.test, trigger, rule="unanimous"),
    }
    return {name: figures.as_json() for name, figures in votes.items()}
