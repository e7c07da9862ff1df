"""The work of the floors' cells: one private training, audited over many seeds beside what is proven of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flows.private_cells import drawn_owners
from flows.private_xray_cells import public_whitening
from flows.study_cells import hardware, study_data, teacher_of
from tasks.backdoor.study.cells import TeacherCell
from tasks.models.inference import features
from tasks.params import Privacy
from tasks.privacy.accounting import delta_for, epsilon, noise_for
from tasks.privacy.study import SYNTHEA
from tasks.privacy.tuning.bench import Ground, Setting, schedule
from tasks.privacy.tuning.risk import measure_floor

VERSION = "1"  # raise it when a change of the code changes figures
CLIP = 1.0


@dataclass(frozen=True)
class SyntheaFloor:
    """The study's network on the Synthea-like set. `data` is the digest of the sample's patients."""

    data: str
    folder: str
    epsilon: float
    seeds: tuple[int, ...]
    networks: int

    @property
    def name(self) -> str:
        return f"network on the Synthea-like set, ε = {self.epsilon:g}"


@dataclass(frozen=True)
class XrayFloor:
    """A head on a teacher's frozen features. `privacy` is the section of params.yaml as JSON."""

    teacher: TeacherCell
    privacy: str
    epsilon: float
    seeds: tuple[int, ...]
    networks: int

    @property
    def name(self) -> str:
        return f"head on X-ray features, ε = {self.epsilon:g}"


def work(cell: SyntheaFloor | XrayFloor) -> dict[str, Any]:
    return (_synthea(cell) if isinstance(cell, SyntheaFloor) else _xray(cell)) | {"hardware": hardware()}


def _synthea(cell: SyntheaFloor) -> dict[str, Any]:
    recipe, (x, y) = SYNTHEA["sgd"], drawn_owners(cell.folder, cell.seeds[0])[1].train
    setting = Setting(recipe.batch_size, recipe.epochs, CLIP, recipe.learning_rate * CLIP, 0.0)
    return _audited(_ground(x, y, recipe.hidden), setting, cell)


def _xray(cell: XrayFloor) -> dict[str, Any]:
    section = Privacy.model_validate_json(cell.privacy)
    images, labels = study_data(cell.teacher.data)[1].part("train")
    x = public_whitening(cell.teacher)(features(teacher_of(cell.teacher).model, images))
    step = section.learning_rate * section.max_grad_norm
    setting = Setting(section.batch_size, section.epochs, section.max_grad_norm, step, 0.0)
    return _audited(_ground(x, torch.from_numpy(labels), ()), setting, cell)


def _ground(x: torch.Tensor, y: torch.Tensor, hidden: tuple[int, ...]) -> Ground:
    none = np.zeros(0, int)
    return Ground(x, y, int(y.max()) + 1, np.arange(len(y)), none, none, hidden)


def _audited(ground: Ground, without_noise: Setting, cell: SyntheaFloor | XrayFloor) -> dict[str, Any]:
    rate, steps = schedule(ground.records, without_noise.batch_size, without_noise.epochs)
    delta = delta_for(ground.records)
    noise = noise_for(cell.epsilon, sample_rate=rate, steps=steps, delta=delta)
    setting = Setting(**{**vars(without_noise), "noise": noise})
    found = [measure_floor(ground, setting, delta=delta, seed=s, networks=cell.networks) for s in cell.seeds]
    return {
        "epsilon": round(epsilon(noise_multiplier=noise, sample_rate=rate, steps=steps, delta=delta), 6),
        "delta": delta,
        "records": ground.records,
        "setting": setting.as_json(),
        "floors": [f.epsilon for f in found],
        "right": [f.right for f in found],
        "guessed": found[0].guessed,
        "coins": found[0].canaries * found[0].networks,
    }
