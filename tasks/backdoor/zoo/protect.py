"""What the pipeline makes of a teacher, whatever hides in it: a student that no small pattern steers, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.backdoor.drill import control_by, student_of
from tasks.backdoor.judge import SCAN, Judged, checks, judge
from tasks.backdoor.ladder import AS_TRAINED, Attempt, climb, kept
from tasks.backdoor.mitigation import Given
from tasks.backdoor.reactivation import reactivate
from tasks.backdoor.search import search
from tasks.backdoor.triggers import Mark
from tasks.models.architectures import Classifier
from tasks.models.inference import accuracy_of, logits
from tasks.models.metrics import balanced_accuracy
from tasks.params import Backdoor, Training
from tasks.stats import bootstrap

Labelled = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Bench:
    """Data and recipe that every teacher meets. `search` is of the validation split, `test` is held out."""

    train: Labelled
    val: Labelled
    search: Labelled
    test: Labelled
    classes: tuple[str, ...]
    recipe: Training  # of the student
    mitigation: Training
    section: Backdoor
    thresholds: Mapping[str, float]
    seed: int


def unprotected(teacher: Classifier, trigger: Mark, bench: Bench, *, planted: bool) -> dict[str, Any]:
    """Students without defence, by the bench's recipe: what they would be, and what a trigger does to them.

    All features trained: the student whose accuracy is the one to hold. Where the trigger is `planted` in the teacher,
    frozen features too, which show what the teacher carries, and a search on the first; a clean teacher's row holds no
    search but the gate's.
    """
    parts = (len(bench.classes), bench.train, bench.val, bench.recipe)
    free = student_of(teacher, *parts, policy="all", seed=bench.seed)
    before: dict[str, Any] = {"all": _figures(free, trigger, bench)}
    if planted:
        before["frozen"] = _figures(student_of(teacher, *parts, policy="none", seed=bench.seed), trigger, bench)
        before["all"]["patch_control"] = _patch_control(free, bench)
    asleep = reactivate(free, bench.val, bench.test, trigger, seed=bench.seed)
    return {"before": before, "relearned": round(asleep.relearned, 6)}


def protect(teacher: Classifier, trigger: Mark, bench: Bench, *, planted: bool) -> dict[str, Any]:
    """Send a teacher through the pipeline; `trigger`, which the pipeline is not told, measures what is left of it.

    The candidate is trained by the recipe with all features trainable and judged by the gate's own search; where it
    fails, the mitigations are tried in order, and the first that passes is promoted.
    """
    count, parts = len(bench.classes), (bench.train, bench.val)
    candidate = student_of(teacher, count, *parts, bench.recipe, policy="all", seed=bench.seed)
    attempts = _ladder(candidate, bench)
    final, tried = kept(attempts), [a.name for a in attempts]
    asleep = reactivate(final.model, bench.val, bench.test, trigger, seed=bench.seed)
    awake: dict[str, Any] = {
        "control": asleep.after.as_json(),
        "relearned": round(asleep.relearned, 6),
        "accuracy": _accuracy(asleep.model, bench.test, bench.seed),
    }
    if planted:
        awake["patch_control"] = _patch_control(asleep.model, bench)
    return {
        "verdict": "promoted" if final.passes else "refused",
        "mitigation": final.name if final.passes else "none of " + ", ".join(tried),
        "tried": [{"name": a.name, "passes": a.passes} | _searched(a.judged) for a in attempts],
        "after": _figures(final.model, trigger, bench) | _searched(final.judged),
        "reactivated": awake,
    }


def _searched(judged: Judged) -> dict[str, Any]:
    """What the gate's search found: the best patch, and the best simple pattern with what and where it is."""
    simple = judged.found.worst_simple()
    named = {"pattern": simple.pattern, "place": simple.place, "side": simple.side}
    return {"patch_control": judged.patch_control, "scan_control": judged.sources[SCAN] | named}


def _ladder(candidate: Classifier, bench: Bench) -> list[Attempt]:
    def judged(name: str, model: Classifier, note: dict[str, Any]) -> Attempt:
        found = judge(model, bench.search, bench.test, {}, bench.section, seed=bench.seed)
        return Attempt(name, model, found, checks(found, bench.thresholds), note)

    given = Given(
        model=candidate,
        train=bench.train,
        val=bench.val,
        training=bench.mitigation,
        section=bench.section,
        seed=bench.seed,
    )
    return climb(judged(AS_TRAINED, candidate, {}), bench.section.mitigation, given, judged)


def _figures(model: Classifier, trigger: Mark, bench: Bench) -> dict[str, Any]:
    control = control_by(model, trigger, bench.test)
    return {
        "accuracy": _accuracy(model, bench.test, bench.seed),
        "control": control.as_json() | {"worst_class": bench.classes[control.worst_class]},
    }


def _accuracy(model: Classifier, test: Labelled, seed: int) -> dict[str, float]:
    """Balanced accuracy with its bootstrap interval."""
    predicted = logits(model, test[0]).argmax(1).numpy()
    low, high = bootstrap(balanced_accuracy, predicted, test[1], seed=seed)
    return {"value": round(balanced_accuracy(predicted, test[1]), 6), "low": round(low, 6), "high": round(high, 6)}


def _patch_control(model: Classifier, bench: Bench) -> dict[str, Any]:
    """By the gate's search, from one noise pattern each: a model under no gate is searched more cheaply."""
    found = search(
        model,
        bench.search,
        bench.test,
        patch_fraction=bench.section.patch_fraction,
        search_steps=bench.section.search_steps,
        restarts=1,
        seed=bench.seed,
    )
    patch = found.patch
    return {"value": round(patch.value, 6), "low": round(patch.low, 6), "high": round(patch.high, 6), "n": patch.n}


def measure_teacher(teacher: Classifier, trigger: Mark, test: Labelled, classes: Sequence[str]) -> dict[str, Any]:
    """Balanced accuracy of a teacher on its own task, and its own control by the trigger."""
    control = control_by(teacher, trigger, test)
    return {
        "accuracy": round(accuracy_of(teacher, test), 6),
        "control": control.as_json() | {"worst_class": classes[control.worst_class]},
    }
