"""Answers to a bank of probes, beside those of reference models: MNTD and universal litmus patterns in kind.

MNTD (Xu 2021) trains a classifier on how clean and backdoored shadow models answer tuned queries; universal litmus
patterns (Kolouri 2020) are such queries. Here the probes are what an attacker would paste: simple patterns over
places and sizes, laid over the whole image, and warps. What a probe does to an honest model of the same task is
known from clean references; a model is novel as far as its answers leave their range. That needs few references,
where a classifier would need hundreds, and no guess of the attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.backdoor.net import BATCH
from tasks.backdoor.patterns import simple_patterns
from tasks.backdoor.scan import first_of_each_class, simple_candidates
from tasks.backdoor.triggers import pixels
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy

Labelled = tuple[np.ndarray, np.ndarray]
IMAGES = 32  # each probe is laid on so many images
OVERLAY = 0.2  # opacity of a pattern laid over the whole image
FLOOR = 0.1  # added to the references' spread, in standard deviations of a model's answers: a probe is never exact
PEAK = 3  # the largest deviations are averaged, so that one odd probe of hundreds accuses nobody


@dataclass(frozen=True)
class Probe:
    """A change of images, and the family it belongs to: `patch`, `overlay` or `warp`."""

    family: str
    name: str
    apply: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Answers:
    """A model's answers to a bank of probes.

    `shifts` (probes, classes): mean change of a class's log-odds, in standard deviations of the model's own log-odds
    over clean images. `travel` (probes,): length of the mean change of the penultimate features, over their spread.
    """

    families: tuple[str, ...]
    names: tuple[str, ...]
    shifts: np.ndarray
    travel: np.ndarray


def bank(channels: int, image_size: int, *, patch_fraction: float, seed: int) -> tuple[Probe, ...]:
    """The probes for images of this shape; `patch_fraction` is the side of the largest patch over the image's side."""
    side = pixels(patch_fraction, image_size)
    patches = [
        Probe("patch", f"{c.pattern} {c.side} px, {c.place}", c.trigger.apply)
        for c in simple_candidates(side, image_size, channels, seed=seed)
    ]
    whole = simple_patterns(image_size, channels, seed=seed)
    overlays = [Probe("overlay", name, _overlay(pattern)) for name, pattern in whole.items()]
    for grain in (4, 16):
        for name, pattern in simple_patterns(max(2, image_size // grain), channels, seed=seed + grain).items():
            large = F.interpolate(pattern[None], size=(image_size, image_size), mode="nearest")[0]
            overlays.append(Probe("overlay", f"{name}, coarse {grain}", _overlay(large)))
    warps = [Probe("warp", f"warp {i}", _warp(image_size, seed + i)) for i in range(6)]
    return (*patches, *overlays, *warps)


def answers(model: Classifier, images: Labelled, probes: Sequence[Probe]) -> Answers:
    """The model's answers to every probe, on about IMAGES images, the same number of every class.

    Args:
        images: clean uint8 images (n, channels, side, side) and labels (n,).
    """
    net, x = frozen_copy(model), as_float(images[0][first_of_each_class(images[1], IMAGES)])
    clean, own = _outputs(net, x)
    scale = clean.std(0).clamp(min=1e-6)
    breadth = own.var(0).sum().sqrt().clamp(min=1e-6)
    shifts, travel = [], []
    group = max(1, BATCH // len(x))
    for i in range(0, len(probes), group):
        some = probes[i : i + group]
        odds, features = _outputs(net, torch.cat([p.apply(x) for p in some]))
        shifts.append((odds.view(len(some), *clean.shape) - clean).mean(1) / scale)
        travel.append((features.view(len(some), *own.shape) - own).mean(1).norm(dim=1) / breadth)
    return Answers(
        tuple(p.family for p in probes), tuple(p.name for p in probes), torch.cat(shifts).numpy(),
        torch.cat(travel).numpy(),
    )  # fmt: skip


def novelty(own: Answers, references: Sequence[Answers]) -> dict[str, float]:
    """How far answers leave the range of clean references' (at least two): logs of deviations, one figure a kind.

    `<family>_peak` averages the three largest deviations of log-odds in that family, `patch_spread` is their root mean
    square over all patches, `feature_peak` the same peak over how far patches move the features.
    """
    deviations = _deviations(own.shifts, [r.shifts for r in references]).max(1)
    moved = (own.travel - np.mean([r.travel for r in references], 0)) / (
        np.std([r.travel for r in references], 0, ddof=1) + FLOOR
    )
    families = np.array(own.families)
    scores = {f"{family}_peak": _peak(deviations[families == family]) for family in dict.fromkeys(own.families)}
    patches = deviations[families == "patch"]
    return scores | {
        "patch_spread": float(np.log(np.sqrt(np.mean(patches**2)) + 1e-3)),
        "feature_peak": _peak(moved[families == "patch"].clip(min=0)),
    }


def loudest(own: Answers, references: Sequence[Answers]) -> tuple[int, int]:
    """The probe and the class whose log-odds it raises furthest beyond the references'."""
    spread = np.std([r.shifts for r in references], 0, ddof=1) + FLOOR
    signed = (own.shifts - np.mean([r.shifts for r in references], 0)) / spread
    probe, raised = np.unravel_index(int(signed.argmax()), signed.shape)
    return int(probe), int(raised)


def log_odds(logits: Tensor) -> Tensor:
    """log p / (1 − p) of every class, shape as the logits: for two classes the difference of the two."""
    rest = [torch.cat([logits[:, :c], logits[:, c + 1 :]], 1).logsumexp(1) for c in range(logits.shape[1])]
    return logits - torch.stack(rest, 1)


@torch.no_grad()
def _outputs(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    odds, features = [], []
    for piece in x.split(BATCH):
        with torch.autocast("cpu", torch.bfloat16):
            own = net.features(piece.contiguous(memory_format=torch.channels_last))
            odds.append(log_odds(net.head(own).float()))
        features.append(own.float())
    return torch.cat(odds), torch.cat(features)


def _deviations(own: np.ndarray, references: Sequence[np.ndarray]) -> np.ndarray:
    values = np.stack(references)
    return np.abs(own - values.mean(0)) / (values.std(0, ddof=1) + FLOOR)


def _peak(deviations: np.ndarray) -> float:
    return float(np.log(np.sort(deviations)[-PEAK:].mean() + 1e-3))


def _overlay(pattern: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (1 - OVERLAY) * x + OVERLAY * pattern


def _warp(size: int, seed: int) -> Callable[[Tensor], Tensor]:
    """A smooth random displacement of up to about two of 64 pixels, as WaNet (Nguyen 2021) draws it: a 4 × 4 grid."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 2, 4, 4, generator=generator) * 2 - 1
    field = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    line = torch.linspace(-1, 1, size)
    identity = torch.stack(torch.meshgrid(line, line, indexing="ij")[::-1], -1)[None]
    grid = (identity + field.permute(0, 2, 3, 1) * 4 / 64 / math.sqrt(2)).clamp(-1, 1)

    def apply(x: Tensor) -> Tensor:
        return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=True)

    return apply
