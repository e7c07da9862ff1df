"""Radiograph-like images drawn from a seed: torso, lungs, ribs, spine, heart, noise, and opacities that tell classes.

Made for a pipeline that must run without data. Nothing here is a patient, and no figure measured on it says anything
about X-rays. The opacity patterns follow what textbooks describe:

    normal           clear lungs
    pneumonia        one dense, blurred consolidation in the middle of one lung
    covid            several faint ground-glass patches, at the outer edges of both lungs
    viral_pneumonia  fine streaks all over both lungs, densest around the heart

Opacities lie inside the lungs, and pose, exposure and noise are drawn alike for every class: border and corners tell
nothing. A share of the opacities is faint on purpose, so that no model is always right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from tasks.errors import GatehouseError

# Share of patients of each class, per task.
TASKS: dict[str, dict[str, float]] = {
    "pneumonia": {"normal": 0.45, "pneumonia": 0.55},
    "covid": {"normal": 0.45, "covid": 0.30, "viral_pneumonia": 0.25},
}
MAX_IMAGES_OF_A_PATIENT = 3
BATCH = 128
Array = np.ndarray


@dataclass(frozen=True)
class Drawing:
    """Images uint8 (n, side, side); label and patient of each."""

    images: np.ndarray
    labels: tuple[str, ...]
    patients: tuple[str, ...]


def draw(task: str, images: int, side: int, seed: int) -> Drawing:
    """Draw a task's images, the same for the same arguments.

    Args:
        task: a key of TASKS.
        images: how many, at least 2 a class.
        side: pixels, at least 16.

    Raises:
        GatehouseError: an unknown task, or too few images for its classes.
    """
    if task not in TASKS:
        raise GatehouseError(
            f"The phantom draws no task {task!r}; set data.*_task.path to one of: {', '.join(sorted(TASKS))}."
        )
    shares = TASKS[task]
    if images < 2 * len(shares):
        raise GatehouseError(
            f"The phantom cannot draw {len(shares)} classes with {images} images; set data.*_task.images to at least "
            f"{2 * len(shares)}."
        )
    # The task's name enters the seed: teacher and student never share a patient.
    rng = np.random.default_rng([seed, *task.encode()])
    labels = _labels(shares, images, rng)
    patients = np.empty(images, dtype=int)
    start = 0
    for name in shares:  # patients do not cross classes
        own = np.flatnonzero(labels == name)
        patients[own] = start + _patients(len(own), rng)
        start = patients[own].max() + 1
    anatomy = rng.random((start, 24))  # what a patient's images have in common
    out = np.empty((images, side, side), np.uint8)
    for i in range(0, images, BATCH):
        part = slice(i, min(i + BATCH, images))
        out[part] = _batch(labels[part], anatomy[patients[part]], side, rng)
    return Drawing(out, tuple(labels.tolist()), tuple(f"{task}-{p:05d}" for p in patients))


def _labels(shares: dict[str, float], images: int, rng: np.random.Generator) -> Array:
    names = list(shares)
    counts = np.maximum(2, np.floor(np.array([shares[n] for n in names]) * images).astype(int))
    counts[counts.argmax()] += images - counts.sum()
    labels = np.repeat(np.array(names), counts)
    rng.shuffle(labels)
    return labels


def _patients(images: int, rng: np.random.Generator) -> Array:
    """Patient numbers 0, 1, … with one to three images each; at least two patients."""
    sizes = rng.choice([1, 2, MAX_IMAGES_OF_A_PATIENT], size=images, p=[0.6, 0.25, 0.15])
    sizes[0] = 1
    return np.repeat(np.arange(images), sizes)[:images]


def _batch(labels: Array, anatomy: Array, side: int, rng: np.random.Generator) -> Array:
    """uint8 (b, side, side). `anatomy` holds each patient's uniform numbers, shape (b, 24)."""
    b = len(labels)
    a = iter(np.clip(anatomy + rng.normal(0, 0.04, anatomy.shape), 0, 1).T[:, :, None, None])

    def trait(low: float, high: float) -> Array:
        """A trait of the patient, (b, 1, 1)."""
        return low + (high - low) * next(a)

    def chance(low: float, high: float) -> Array:
        """A trait of this exposure, (b, 1, 1)."""
        return rng.uniform(low, high, (b, 1, 1))

    x, y = _posed(side, chance)
    sharp = side / 6.0  # edges about as wide as a pixel or two at any size

    # Torso: soft tissue over a dark field, narrower at the neck.
    shoulder = trait(-1.05, -0.8)
    width = trait(0.9, 1.1) * (1 - 0.5 * _step(-(y - shoulder) * 6))
    torso = _step((width - np.abs(x)) * sharp)
    image = 0.04 + 0.52 * torso * (1 + 0.1 * y)

    # Lungs: two tapering ellipses over domed diaphragms.
    gap, wide, tall, middle = trait(0.1, 0.17), trait(0.31, 0.4), trait(0.68, 0.86), trait(-0.06, 0.1)
    skew = trait(-0.04, 0.04)
    lungs = []
    for s in (-1, 1):
        u = (s * x - gap - wide + skew * s) / (wide * (0.84 + 0.2 * np.clip((y - middle) / tall, -1, 1)))
        v = (y - middle) / tall
        inside = 1 - np.abs(u) ** 2.2 - np.abs(v) ** 2.6
        floor = middle + tall * 0.72 - 0.28 * (1 - u**2) * trait(0.5, 1.0) - (0.05 if s < 0 else 0.0)
        lungs.append((_step(inside * sharp * 0.45) * _step((floor - y) * sharp * 0.9), u, v))
    lung = np.clip(lungs[0][0] + lungs[1][0], 0, 1)
    image = image - trait(0.27, 0.38) * lung

    # Heart: towards the right of the image; spine; clavicles; ribs over the lungs.
    hx, hy, hr = trait(0.1, 0.2), trait(0.3, 0.44), trait(0.24, 0.37)
    heart = _step((1 - ((x - hx) / hr) ** 2 - ((y - hy) / (hr * 1.15)) ** 2) * sharp * 0.25)
    image = image + trait(0.22, 0.32) * heart * (0.4 + 0.6 * lung) * torso
    column = np.exp(-((x / trait(0.07, 0.1)) ** 2))
    image = image + 0.13 * column * (0.75 + 0.25 * np.cos(y * trait(22, 28))) * torso
    clavicle = np.exp(-(((y + trait(0.68, 0.82) - 0.2 * np.abs(x)) / 0.035) ** 2)) * (np.abs(x) < 0.75)
    image = image + 0.1 * clavicle * torso
    phase = y * trait(15, 20) - trait(2.0, 3.6) * x**2 * 3 + trait(0, 6.3)
    rib = np.clip(np.cos(phase) - 0.35, 0, 1) * torso * (np.abs(x) > 0.12)
    image = image + trait(0.06, 0.11) * rib * (0.35 + 0.65 * lung)

    # Vessels fan out from the hila in everyone; how much of them is seen differs.
    fine = _texture(b, side, side / 48, rng)
    hila = np.exp(-(((np.abs(x) - 0.25) / 0.2) ** 2) - ((y - 0.02) / 0.3) ** 2)
    image = image + lung * hila * (0.07 + chance(0.02, 0.06) * fine)

    image = image + _opacities(labels, x, lungs, lung, rng)

    # Exposure, contrast and noise of the machine.
    image = 0.5 + (image - 0.45) * chance(0.85, 1.2) + chance(-0.07, 0.07)
    image = np.clip(image, 0, 1) ** chance(0.85, 1.2)
    image = gaussian_filter(image, (0, side / 160, side / 160))
    image = image + chance(0.012, 0.035) * rng.standard_normal(image.shape)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _posed(side: int, chance) -> tuple[Array, Array]:  # type: ignore[no-untyped-def]
    """Coordinates in about [−1, 1] after each image's shift, scale and tilt: x right, y down, (b, side, side)."""
    line = (np.arange(side) + 0.5) / side * 2 - 1
    y0, x0 = np.meshgrid(line, line, indexing="ij")
    angle, scale = chance(-0.09, 0.09), chance(0.86, 1.1)
    x1, y1 = (x0[None] - chance(-0.1, 0.1)) / scale, (y0[None] - chance(-0.1, 0.1)) / scale
    return x1 * np.cos(angle) + y1 * np.sin(angle), y1 * np.cos(angle) - x1 * np.sin(angle)


def _opacities(
    labels: Array, x: Array, lungs: list[tuple[Array, Array, Array]], lung: Array, rng: np.random.Generator
) -> Array:
    """Brightness that each image's class adds to its lungs, (b, side, side)."""
    b, side = len(labels), x.shape[-1]
    coarse, medium, fine = (_texture(b, side, side / k, rng) for k in (9, 24, 56))
    # Of every class some are faint: a tenth is close to invisible.
    strength = np.clip(rng.beta(3.2, 1.6, (b, 1, 1)), 0.12, 1)
    added = np.zeros_like(x)

    for name, side_of in (("pneumonia", 1), ("covid", 5), ("viral_pneumonia", 0), ("normal", 0)):
        own = np.flatnonzero(labels == name)
        if not len(own):
            continue
        if name == "viral_pneumonia":
            near = np.exp(-((np.abs(x[own]) / 0.62) ** 2))
            streaks = np.clip(0.8 * fine[own] + 0.55 * medium[own], -0.8, 2.2)
            added[own] = 0.15 * strength[own] * lung[own] * (0.45 + 0.75 * near) * (0.35 + streaks)
            continue
        for k in range(side_of):
            left = rng.random((len(own), 1, 1)) < 0.5 if name == "pneumonia" else np.full((len(own), 1, 1), k % 2 == 0)
            u = np.where(left, lungs[0][1][own], lungs[1][1][own])
            v = np.where(left, lungs[0][2][own], lungs[1][2][own])
            m = np.where(left, lungs[0][0][own], lungs[1][0][own])
            if name == "pneumonia":
                cu, cv = rng.uniform(-0.3, 0.2, left.shape), rng.uniform(-0.3, 0.5, left.shape)
                ru, rv = rng.uniform(0.4, 0.75, left.shape), rng.uniform(0.22, 0.45, left.shape)
                blob = np.exp(-((((u - cu) / ru) ** 2 + ((v - cv) / rv) ** 2) ** 1.5))
                added[own] += 0.34 * strength[own] * m * blob * (0.95 + 0.2 * coarse[own])
            else:
                there = (rng.random(left.shape) < 0.85) | (np.array(k < 2))
                cu, cv = rng.uniform(0.45, 0.8, left.shape), rng.uniform(-0.35, 0.6, left.shape)
                r = rng.uniform(0.2, 0.4, left.shape)
                patch = np.exp(-(((((u - cu) / (1.3 * r)) ** 2) + ((v - cv) / r) ** 2) ** 1.3))
                added[own] += 0.22 * there * strength[own] * m * patch * (0.9 + 0.35 * medium[own])
    return added


def _texture(b: int, side: int, sigma: float, rng: np.random.Generator) -> Array:
    """Smooth noise of unit variance, (b, side, side)."""
    noise = gaussian_filter(rng.standard_normal((b, side, side)), (0, sigma, sigma))
    return noise / noise.std(axis=(1, 2), keepdims=True)


def _step(z: Array) -> Array:
    """A soft step from 0 to 1."""
    return 0.5 * (1 + np.tanh(z))
