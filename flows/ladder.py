"""The gate's ladder of mitigations on a candidate, and the re-activation test of what it ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flows.stage import Context
from tasks.backdoor import ladder
from tasks.backdoor.drill import control_by
from tasks.backdoor.judge import checks, judge, thresholds
from tasks.backdoor.ladder import Attempt
from tasks.backdoor.mitigation import Given, mitigation_training
from tasks.backdoor.reactivation import Reactivation, reactivate
from tasks.backdoor.triggers import Trigger
from tasks.backdoor.words import VOID_EPSILON
from tasks.data.dataset import Dataset
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import load_model
from tasks.risk import Policy

Part = tuple[np.ndarray, np.ndarray]


def parts(context: Context, data: Dataset) -> tuple[Part, Part]:
    """(images to search on, held-out images to measure on)."""
    return data.part("val", context.params.backdoor.search_images, context.params.run.seed), data.part("test")


def judged_attempt(
    context: Context,
    name: str,
    model: Classifier,
    data: Dataset,
    triggers: dict[str, Trigger],
    policy: Policy,
    note: dict[str, Any] | None = None,
) -> Attempt:
    search_set, test = parts(context, data)
    judged = judge(model, search_set, test, triggers, context.params.backdoor, seed=context.params.run.seed)
    return Attempt(name, model, judged, checks(judged, thresholds(policy)), note or {})


def climb(
    context: Context, original: Attempt, data: Dataset, triggers: dict[str, Trigger], policy: Policy
) -> tuple[list[Attempt], str]:
    """The attempts of `tasks.backdoor.ladder.climb` where the candidate may be mitigated, and a sentence on them."""
    section = context.params.backdoor
    if original.passes:
        return [original], "no mitigation was needed."
    if context.candidate == "private_student":
        return [original], VOID_EPSILON
    if not section.mitigation:
        return [original], "the gate failed, and mitigation is off (backdoor.mitigation: [])."
    given = Given(
        model=original.model,
        train=data.part("train"),
        val=data.part("val"),
        training=mitigation_training(context.params.student.recipe(), section),
        section=section,
        seed=context.params.run.seed,
    )
    attempts = ladder.climb(
        original,
        section.mitigation,
        given,
        lambda name, model, note: judged_attempt(context, name, model, data, triggers, policy, note),
        progress=lambda name, done: context.progress(done, section.mitigation_epochs, _words(name)),
    )
    tried = [f"{_words(a.name)} {a.note['did']}" for a in attempts[1:]]
    if attempts[-1].passes:
        return attempts, f"the gate failed; {'; '.join(tried)}: the result passes and replaces it."
    none = "the result does not pass either" if len(tried) == 1 else "none of the results passes"
    return attempts, f"the gate failed; {'; '.join(tried)}: {none}, and the original is kept."


def _words(name: str) -> str:
    words = {"anp": "ANP", "fine_pruning": "Fine-Pruning", "ft_sam": "FT-SAM", "i_bau": "I-BAU"}
    return words.get(name, name.replace("_", "-"))


def reactivations(
    context: Context,
    trained: Classifier,
    final: Classifier,
    drill: dict[str, Any],
    triggers: dict[str, Trigger],
    data: Dataset,
) -> dict[str, Any]:
    """Every drill trigger's re-activation in the final candidate, and in the drill's clean references beside.

    The target is the class that the trigger raises most in the candidate as trained: if a backdoor sleeps, it is that.
    """
    train, test, seed = data.part("train"), parts(context, data)[1], context.params.run.seed
    references = {r["model"]: load_model(Path(r["model_folder"]))[0] for r in drill["searches"] if r["kind"] == "clean"}
    report: dict[str, Any] = {}
    for name, trigger in triggers.items():
        target = control_by(trained, trigger, test).worst_class

        def asked(model: Classifier, trigger: Trigger = trigger, target: int = target) -> Reactivation:
            return reactivate(model, train, test, trigger, target_class=target, seed=seed)

        report[name] = {
            "candidate": asked(final).as_json(),
            "references": {n: asked(model).as_json() for n, model in references.items()},
        }
    return report
