"""When extraction is seen, and how good the copy is by then: `python -m benchmarks.extraction [--seeds 3]`.

A small network learns the phantom's student task; copies of it learn from its scores, query by query, and the monitor
reads the sketches. Result: reports/bench/extraction.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import rotate, shift
from torch import Tensor
from torch.nn import functional as F

from tasks.data.phantom import draw
from tasks.files import write_json
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import as_float, logits, probabilities
from tasks.models.training import fit
from tasks.monitoring.extraction import Extraction, extraction
from tasks.params import Training
from tasks.serving.sketch import sketches

OUT = Path("reports/bench/extraction.json")
SIDE, REFERENCE, BENIGN = 32, 400, 5000
CLASSES = ("covid", "normal", "viral_pneumonia")
SEEDS, BUDGET = 60, 400  # images that an attacker has, and queries
STEPS, RATE, BATCH = 150, 0.002, 32  # of a copy's training
TRAINING = Training(
    epochs=8, learning_rate=0.003, backbone_scale=1.0, weight_decay=0.0005, batch_size=32, patience=8,
    class_weights=False, patch_probability=0.0, patch_max_fraction=0.2, bfloat16=False,
)  # fmt: skip


@dataclass(frozen=True)
class Victim:
    model: Classifier
    reference: np.ndarray  # sketches of validation images
    test: np.ndarray  # uint8, for agreement

    def agreement(self, queries: Tensor) -> float:
        """Of a copy that learnt from the answers to these queries, on test images."""
        copy = substitute(queries, probabilities(self.model, queries))
        own, other = (logits(m, self.test).argmax(1) for m in (self.model, copy))
        return float((own == other).float().mean())


def pictures(n: int, seed: int, task: str = "covid") -> np.ndarray:
    return draw(task, n, SIDE, seed).images[:, None]


def victim(seed: int, images: int = 1500) -> Victim:
    """Trained on images of patients of its own; seeds differ by 10 so that no two parts share one."""

    def part(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = draw("covid", n, SIDE, 10 * seed + k)
        return drawn.images[:, None], np.array([CLASSES.index(label) for label in drawn.labels])

    model = build(ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=SIDE), seed=seed)
    val = part(REFERENCE, 2)
    fit(model, part(images, 1), val, TRAINING, policy="all", seed=seed)
    return Victim(model, sketches(as_float(val[0]).numpy()), part(500, 3)[0])


def substitute(queries: Tensor, answers: Tensor) -> Classifier:
    """A copy of the same architecture, trained on the answers' scores."""
    model = build(ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=SIDE), seed=99)
    optimiser = torch.optim.Adam(model.train().parameters(), RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        i = torch.randint(len(queries), (min(BATCH, len(queries)),), generator=generator)
        optimiser.zero_grad()
        x = queries[i].contiguous(memory_format=torch.channels_last)
        F.cross_entropy(model(x), answers[i]).backward()
        optimiser.step()
    return model.eval()


def jacobian(v: Victim, seed: int, step: float) -> Tensor:
    """Papernot et al. 2017: each round doubles the set along the sign of the copy's gradient."""
    x = as_float(pictures(SEEDS, 1000 + seed))
    while len(x) < BUDGET:
        copy = substitute(x, probabilities(v.model, x))
        z = x.clone().requires_grad_(True)
        copy(z).max(1).values.sum().backward()
        assert z.grad is not None
        x = torch.cat([x, (x + step * z.grad.sign()).clamp(0, 1)[: BUDGET - len(x)]])
    return x


def varied(seed: int, change: Callable[[np.ndarray, np.random.Generator, np.ndarray], np.ndarray]) -> Tensor:
    """An attacker's own images, then variants of them."""
    rng = np.random.default_rng(seed)
    own = as_float(pictures(SEEDS, 1000 + seed)).numpy()
    variants = change(own[rng.integers(0, SEEDS, BUDGET - SEEDS)], rng, own)
    return torch.from_numpy(np.concatenate([own, variants.clip(0, 1)]).astype(np.float32))


def disturbed(x: np.ndarray, rng: np.random.Generator, _: np.ndarray) -> np.ndarray:
    return x + rng.uniform(-0.2, 0.2, x.shape)


def moved(x: np.ndarray, rng: np.random.Generator, _: np.ndarray) -> np.ndarray:
    """Turned by up to 10°, shifted by up to a twelfth, contrast × 0.8 to 1.2."""

    def one(image: np.ndarray) -> np.ndarray:
        turned = rotate(image, rng.uniform(-10, 10), reshape=False, mode="nearest", order=1)
        shifted: np.ndarray = shift(turned, rng.uniform(-SIDE / 12, SIDE / 12, 2), mode="nearest", order=1)
        return shifted * rng.uniform(0.8, 1.2)

    return np.stack([one(image[0])[None] for image in x])


def mixed(x: np.ndarray, rng: np.random.Generator, own: np.ndarray) -> np.ndarray:
    part = rng.random((len(x), 1, 1, 1))
    return part * x + (1 - part) * own[rng.integers(0, len(own), len(x))]


def textures(seed: int) -> Tensor:
    """1/f noise, whose spectrum is that of photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = 1
    drawn = np.fft.ifft2(np.fft.fft2(rng.standard_normal((BUDGET, SIDE, SIDE))) / frequency).real
    drawn = (drawn - drawn.mean((1, 2), keepdims=True)) / drawn.std((1, 2), keepdims=True)
    return torch.from_numpy((0.5 + 0.2 * drawn).clip(0, 1).astype(np.float32)[:, None])


ATTACKS: dict[str, Callable[[Victim, int], Tensor]] = {
    "Jacobian augmentation, step 0.1": lambda v, s: jacobian(v, s, 0.1),
    "Jacobian augmentation, step 0.3": lambda v, s: jacobian(v, s, 0.3),
    "own images with noise": lambda _, s: varied(s, disturbed),
    "own images, moved": lambda _, s: varied(s, moved),
    "own images, mixed": lambda _, s: varied(s, mixed),
    "textures": lambda _, s: textures(s),
    "random pixels": lambda _, s: torch.from_numpy(
        np.random.default_rng(s).random((BUDGET, 1, SIDE, SIDE)).astype(np.float32)
    ),
    "other X-rays (the teacher's task)": lambda _, s: as_float(pictures(BUDGET, 2000 + s, "pneumonia")),
    "other patients of the same kind": lambda _, s: as_float(pictures(BUDGET, 3000 + s)),
}


def logged(images: np.ndarray | Tensor, name: str, accounts: int, *, offset: float = 0.0) -> pd.DataFrame:
    """What the log holds of them: one a second, by turns from so many accounts."""
    kept = sketches(np.asarray(as_float(images) if isinstance(images, np.ndarray) else images))
    return pd.DataFrame(
        {
            "sha256": [f"{name} {i}" for i in range(len(kept))],
            "label": "x",
            "account": [f"{name} {i % accounts}" for i in range(len(kept))],
            "time": np.arange(len(kept)) + offset,
            "sketch": [row.tobytes() for row in kept],
        }
    )


def alarm(found: Extraction, name: str = "") -> int | None:
    """How many of the attacker's queries had been asked at the first alarm of an account of its, or of all together."""
    scopes = [s for s in (found.everybody, *found.accounts) if s and s.account.startswith(name)]
    times = [s.alarm_time for s in scopes if s.alarm_time is not None]
    return int(min(times)) + 1 if times else None


def measure(v: Victim, name: str, seed: int, crowd: np.ndarray) -> dict[str, Any]:
    """One attack: from one account, from ten, and from ten among as many benign queries after 2 000 of those."""
    queries = ATTACKS[name](v, seed)
    before, beside = crowd[:2000], crowd[2000 : 2000 + BUDGET]
    parts = [logged(before, "benign", 10, offset=-2000.0), logged(queries, "attacker", 10)]
    parts.append(logged(beside, "beside", 10, offset=0.5))
    among = pd.concat(parts).sort_values("time", kind="stable")
    alarms = {
        "one account": alarm(extraction(logged(queries, "attacker", 1), v.reference)),
        "ten accounts": alarm(extraction(logged(queries, "attacker", 10), v.reference)),
        "ten accounts among others": alarm(extraction(among, v.reference), "attacker"),
    }
    copies = {n: v.agreement(queries[:n]) for n in {*alarms.values(), BUDGET} if n is not None}
    return {
        "attack": name,
        "seed": seed,
        "alarm": alarms,
        "agreement_at_alarm": {k: round(copies[n], 4) if n is not None else None for k, n in alarms.items()},
        "agreement_unseen": round(copies[BUDGET], 4),
    }


def false_alarms(v: Victim, seed: int, accounts: int) -> dict[str, Any]:
    """Benign queries, other patients than the attacker's and the reference's."""
    found = extraction(logged(pictures(BENIGN, 4000 + seed), "benign", accounts), v.reference)
    assert found.everybody is not None
    scopes = (found.everybody, *found.accounts)
    return {
        "seed": seed,
        "queries": BENIGN,
        "accounts": accounts,
        "alarms": sum(s.alarm_at is not None for s in scopes),
        "evidence": max(s.evidence for s in scopes),
        "limit": found.limit,
        "near": found.everybody.near,
        "far": found.everybody.far,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    attacks, benign = [], []
    for seed in range(options.seeds):
        v = victim(seed)
        crowd = pictures(2000 + BUDGET, 5000 + seed)
        benign += [false_alarms(v, seed, accounts) for accounts in (1, 10)]
        for name in ATTACKS:
            attacks.append(measure(v, name, seed, crowd))
            print(attacks[-1], flush=True)
    command = f"python -m benchmarks.extraction --seeds {options.seeds}"
    write_json(OUT, {"command": command, "side": SIDE, "budget": BUDGET, "attacks": attacks, "benign": benign})


if __name__ == "__main__":
    main()
