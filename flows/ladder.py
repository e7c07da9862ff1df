"""The ladder of mitigations: each is tried on the candidate as trained and judged, until one passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.stage import Context
from tasks.backdoor.drill import control_by
from tasks.backdoor.judge import Judged, checks, judge
from tasks.backdoor.mitigation import Given, mitigate
from tasks.backdoor.reactivation import Reactivation, reactivate
from tasks.backdoor.triggers import Trigger
from tasks.backdoor.words import VOID_EPSILON
from tasks.data.dataset import Dataset
from tasks.gate import Check
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import load_model
from tasks.params import Params, Training
from tasks.risk import Policy

CHECKS = ("trigger_control", "patch_control", "accuracy_minimum")
Part = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Attempt:
    """A model and what the gate says of it."""

    name: str  # as trained, or the mitigation's
    model: Classifier
    judged: Judged
    checks: tuple[Check, ...]
    note: dict[str, Any]  # of the mitigation

    @property
    def passes(self) -> bool:
        return all(c.status == "passed" for c in self.checks)


def thresholds(policy: Policy) -> dict[str, float]:
    return {name: policy.threshold("backdoor", name) for name in CHECKS}


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
    context: Context, attempts: list[Attempt], data: Dataset, triggers: dict[str, Trigger], policy: Policy
) -> str:
    """Where the gate failed, try the mitigations in the order of params.yaml, judging each, until one passes.

    Each starts from the model as trained and is added to `attempts`; a sentence says what was done. The triggers that
    the methods are given are those that our own search found, never the drill's.
    """
    section, original = context.params.backdoor, attempts[0]
    if original.passes:
        return "no mitigation was needed."
    if context.candidate == "private_student":
        return VOID_EPSILON
    if not section.mitigation:
        return "the gate failed, and mitigation is off (backdoor.mitigation: [])."
    found, tried = original.judged.found, []
    for name in section.mitigation:
        given = Given(
            model=original.model,
            train=data.part("train"),
            val=data.part("val"),
            training=_training(context.params),
            section=section,
            triggers=tuple(p.trigger for p in (*found.patches, *found.simple_patches)),
            seed=context.params.run.seed,
            progress=lambda done, n=name: context.progress(done, section.mitigation_epochs, _words(n)),  # type: ignore[misc]
        )
        mitigated = mitigate(name, given)
        tried.append(f"{_words(name)} {mitigated.note['did']}")
        attempts.append(judged_attempt(context, name, mitigated.model, data, triggers, policy, mitigated.note))
        if attempts[-1].passes:
            return f"the gate failed; {'; '.join(tried)}: the result passes and replaces it."
    none = "the result does not pass either" if len(tried) == 1 else "none of the results passes"
    return f"the gate failed; {'; '.join(tried)}: {none}, and the original is kept."


def _training(params: Params) -> Training:
    """How mitigations train: as the student was, for the section's epochs, with all features at the same rate."""
    common = {k: getattr(params.student, k) for k in Training.model_fields}
    section = params.backdoor
    return Training(
        **common
        | {
            "epochs": section.mitigation_epochs,
            "learning_rate": section.mitigation_learning_rate,
            "backbone_scale": 1.0,
            "patience": section.mitigation_epochs,
        }
    )


def _words(name: str) -> str:
    words = {"anp": "ANP", "fine_pruning": "Fine-Pruning", "ft_sam": "FT-SAM", "i_bau": "I-BAU"}
    return words.get(name, name.replace("_", "-"))


def reactivations(
    context: Context,
    attempts: list[Attempt],
    final: Attempt,
    drill: dict[str, Any],
    triggers: dict[str, Trigger],
    data: Dataset,
) -> dict[str, Any]:
    """Every drill trigger's re-activation in the final candidate, and in the drill's clean references beside.

    The target is the class that the trigger raises most in the candidate as trained: if a backdoor sleeps, it is that.
    """
    test, seed = parts(context, data)[1], context.params.run.seed
    references = {r["model"]: load_model(Path(r["model_folder"]))[0] for r in drill["searches"] if r["kind"] == "clean"}
    report: dict[str, Any] = {}
    for name, trigger in triggers.items():
        target = control_by(attempts[0].model, trigger, test).worst_class

        def asked(model: Classifier, trigger: Trigger = trigger, target: int = target) -> Reactivation:
            return reactivate(model, data.part("train"), test, trigger, target_class=target, seed=seed)

        report[name] = {
            "candidate": asked(final.model).as_json(),
            "references": {n: asked(model).as_json() for n, model in references.items()},
        }
    return report
