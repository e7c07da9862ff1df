"""Attacks on a candidate over rising budgets: who is fooled, when, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from tasks.evasion import gray_box
from tasks.evasion.art_adapter import hop_skip_jump
from tasks.evasion.attacks.apgd import apgd_ce, apgd_targeted
from tasks.evasion.attacks.noise import random_noise
from tasks.evasion.attacks.square import Queried, square
from tasks.evasion.sample import Sample, as_255
from tasks.evasion.substitute import train_substitute, transfer
from tasks.evasion.threat_models import BLACK_BOX, GRAY_BOX, NOISE, WHITE_BOX
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import logits
from tasks.params import Training

Progress = Callable[[str], None]
SQUARE, HOP_SKIP_JUMP, SUBSTITUTE = "square", "hop_skip_jump", "substitute"
FEWER = 4  # the white box is tried with one step in so many too: more steps must not hurt it


@dataclass(frozen=True)
class Effort:
    """What the attackers may spend.

    `budgets`: rising, L-infinity, pixel units of [0, 1]. `steps`: gradient steps of an attack. `queries`: of the black
    box, an image. `labels_only`: its answers hold no scores. `bfloat16`: gradients by autocast; answers are always
    asked for in float32.
    """

    budgets: tuple[float, ...]
    steps: int
    queries: int
    seed: int
    bfloat16: bool = False
    labels_only: bool = False


@dataclass(frozen=True)
class Attacker:
    """What he holds: the teacher, the candidate's architecture and recipe, and pictures of his own with classes."""

    teacher: Classifier
    spec: ModelSpec
    own: tuple[np.ndarray, np.ndarray]  # uint8 (n, channels, side, side), int64 (n,)
    recipe: Training


@dataclass(frozen=True)
class Curve:
    """One threat model over the budgets, by its strongest attack at each."""

    threat_model: str
    budgets: tuple[float, ...]
    fooled: np.ndarray  # bool (budgets, k)
    strongest: tuple[str, ...] = ()  # name of the attack at each budget


@dataclass(frozen=True)
class Measured:
    """Everything that was measured on a candidate."""

    sample: Sample
    curves: dict[str, Curve]
    crafted: dict[str, list[Tensor]]  # threat model -> the strongest attack's images, one (k, …) a budget
    by_attack: dict[str, np.ndarray]  # attack -> bool (k,), at the largest budget
    through_teacher: dict[str, Tensor] = field(repr=False, default_factory=dict)  # gray-box attack -> its images there
    queries: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), int))  # of the search, (budgets, k)
    fewer_steps: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # white box at the smallest budget


def measure(
    candidate: Classifier,
    attacker: Attacker,
    sample: Sample,
    effort: Effort,
    *,
    progress: Progress = lambda _: None,
) -> Measured:
    """Attack the sample under every threat model and budget.

    All attacks through the teacher are tried at the largest budget, and the strongest there at the others too.
    """
    x, seed, largest = sample.x, effort.seed, effort.budgets[-1]
    own, recipe = attacker.own, attacker.recipe
    through = gray_box.attacks(
        attacker.teacher, candidate, sample, own, recipe, steps=effort.steps, seed=seed, bfloat16=effort.bfloat16
    )
    progress("every attack through the teacher")
    at_largest = {name: craft(largest) for name, craft in through.items()}
    by_attack = {name: _fooled(candidate, images, sample) for name, images in at_largest.items()}
    strongest = max(by_attack, key=lambda name: int(by_attack[name].sum()))
    by_answers = _search(candidate, sample, effort)
    substitute = train_substitute(candidate, build(attacker.spec, seed=seed), own[0], recipe, seed=seed)

    crafted: dict[str, list[Tensor]] = {}
    chosen: dict[str, list[str]] = {}
    asked = []

    def keep(threat: str, attack: str, images: Tensor) -> None:
        crafted.setdefault(threat, []).append(images)
        chosen.setdefault(threat, []).append(attack)

    for eps in effort.budgets:
        progress(f"white box at {as_255(eps)}")
        keep(WHITE_BOX.name, "apgd", white_box(candidate, sample, eps, effort.steps, effort))
        progress(f"gray box at {as_255(eps)}")
        keep(GRAY_BOX.name, strongest, at_largest[strongest] if eps == largest else through[strongest](eps))
        progress(f"black box at {as_255(eps)}")
        search, found = by_answers(eps)
        asked.append(found.queries.numpy())
        carried = transfer(substitute, sample, eps=eps, steps=effort.steps, seed=seed, bfloat16=effort.bfloat16)
        tried = {search: found.images, SUBSTITUTE: carried}
        if eps == largest:
            by_attack |= {name: _fooled(candidate, images, sample) for name, images in tried.items()}
        best = max(tried, key=lambda name: int(_fooled(candidate, tried[name], sample).sum()))
        keep(BLACK_BOX.name, best, tried[best])
        keep(NOISE.name, "noise", random_noise(x, eps=eps, seed=seed))
    progress("fewer steps")
    few = white_box(candidate, sample, effort.budgets[0], max(1, effort.steps // FEWER), effort)
    curves = {
        name: judge(candidate, images, sample, effort.budgets, name, strongest=tuple(chosen[name]))
        for name, images in crafted.items()
    }
    return Measured(sample, curves, crafted, by_attack, at_largest, np.stack(asked), _fooled(candidate, few, sample))


def looks(effort: Effort) -> int:
    """How often `measure` calls `progress`."""
    return 2 + 3 * len(effort.budgets)


def white_box(candidate: Classifier, sample: Sample, eps: float, steps: int, effort: Effort) -> Tensor:
    """Auto-PGD on the cross-entropy, then, for the images that withstand, on the targeted logit ratio."""
    shared = {"eps": eps, "steps": steps, "seed": effort.seed, "bfloat16": effort.bfloat16}
    out = apgd_ce(candidate, sample.x, sample.y, **shared)  # type: ignore[arg-type]
    left = torch.from_numpy(~_fooled(candidate, out, sample)).nonzero().squeeze(1)
    out[left] = apgd_targeted(candidate, sample.x[left], sample.y[left], **shared)  # type: ignore[arg-type]
    return out


def _search(candidate: Classifier, sample: Sample, effort: Effort) -> Callable[[float], tuple[str, Queried]]:
    """The search that the candidate's answers allow: on scores anew for each budget, on labels once for all of them."""
    x, y, queries, seed = sample.x, sample.y, effort.queries, effort.seed
    if not effort.labels_only:
        # In float32: measured, margins in bfloat16 let one image in ten escape that the exact ones catch.
        return lambda eps: (SQUARE, square(candidate, x, y, eps=eps, queries=queries, seed=seed))
    starts = x[sample.targets.clamp(min=0)] if len(x) else x
    found = hop_skip_jump(candidate, x, y, starts, queries=queries, seed=seed)
    far = (found.images - x).abs().flatten(1).amax(1) if len(x) else torch.zeros(0)

    def within(eps: float) -> tuple[str, Queried]:
        near = (far <= eps).view(-1, 1, 1, 1)
        return HOP_SKIP_JUMP, replace(found, images=torch.where(near, found.images, x))

    return within


def judge(
    model: Classifier,
    crafted: list[Tensor],
    sample: Sample,
    budgets: tuple[float, ...],
    threat_model: str,
    *,
    strongest: tuple[str, ...] = (),
) -> Curve:
    """What a model answers to crafted images, one batch of them a budget."""
    return Curve(threat_model, budgets, np.stack([_fooled(model, images, sample) for images in crafted]), strongest)


def _fooled(model: Classifier, images: Tensor, sample: Sample) -> np.ndarray:
    return (logits(model, images).argmax(1) != sample.y).numpy()
