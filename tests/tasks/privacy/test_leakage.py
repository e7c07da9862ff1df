"""Extraction, attribute inference and inversion on models that leak by construction, and on models that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import GatehouseError
from tasks.models.architectures import ModelSpec, build
from tasks.models.inference import logits
from tasks.privacy.answers import ANSWERS, limited
from tasks.privacy.attribute import infer_attribute
from tasks.privacy.extraction import extract
from tasks.privacy.inversion import invert, nearest


@given(st.integers(0, 999), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_whatever_is_answered_the_label_stays(seed: int, classes: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(classes) * 0.3, 20)
    for answer in ANSWERS:
        said = limited(p, answer)
        assert said.shape == p.shape
        assert said.min() >= 0
        assert said.sum(1) == pytest.approx(1, abs=0.005 * classes + 1e-9)
        assert (said[np.arange(20), p.argmax(1)] >= said.max(1) - 1e-12).all()
    assert (limited(p, "scores") == p).all()
    assert set(np.unique(limited(p, "labels"))) <= {0, 1}
    with pytest.raises(GatehouseError, match="no kind of answer"):
        limited(p, "riddles")  # type: ignore[arg-type]


def test_a_copy_agrees_the_more_the_more_it_may_ask() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(3000, 10)).astype(np.float32))
    victim = torch.softmax(x @ torch.from_numpy(rng.normal(size=(10, 3)).astype(np.float32)) * 2, 1).numpy()

    def agreement(queries: int, answer: str) -> float:
        copy = extract(x[:queries], limited(victim, answer)[:queries])  # type: ignore[arg-type]
        return float((copy(x[2000:]) == victim[2000:].argmax(1)).mean())

    assert agreement(1000, "scores") > 0.97
    assert agreement(1000, "labels") > 0.93
    assert agreement(15, "labels") < agreement(15, "scores")
    # A column that no query varies says nothing, however far it lies elsewhere.
    narrow = x[:1000].clone()
    narrow[:, 9] = 0.1
    copy = extract(narrow, victim[:1000])
    far = x[2000:].clone()
    far[:, 9] = 50.0
    assert (copy(far) == copy(torch.cat([far[:, :9], torch.full((1000, 1), 0.1)], 1))).all()
    with pytest.raises(GatehouseError, match="two queries or more"):
        extract(x[:1], victim[:1])


def part(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.sign(rng.normal(size=(n, 6))), rng.integers(0, 2, n)


def test_a_model_that_learnt_by_heart_gives_its_people_away_and_nobody_else() -> None:
    """It is sure of the label of whole records that it has seen; of all others it knows nothing."""
    members, others, known = part(1, 40), part(2), part(3)
    heart = {(*x, y) for x, y in zip(*members, strict=True)}

    def ask(x: np.ndarray) -> np.ndarray:
        sure = np.array([[(*row, c) in heart for c in (0, 1)] for row in x])
        return np.where(sure, 0.9, 0.1)

    found = infer_attribute(ask, members, others, known, column=2)
    assert found.members > found.others + 0.15
    silent = infer_attribute(lambda x: np.full((len(x), 2), 0.5), members, others, known, column=2)
    assert silent.members == silent.others == 0.5
    assert abs(found.without_the_model - 0.5) < 0.25
    with pytest.raises(GatehouseError, match="same two values"):
        infer_attribute(ask, (np.zeros((4, 6)), np.zeros(4, int)), others, known, column=2)


def test_inverted_pictures_are_what_the_model_was_asked_for() -> None:
    model = build(ModelSpec(architecture="simple_cnn", classes=("a", "b", "c"), channels=1, image_size=32), seed=3)
    model.head.weight.data.mul_(200)  # as sure of its answers as a trained one
    for target in range(3):
        pictures = invert(model, target, channels=1, side=32, count=2, seed=1)
        assert pictures.dtype == np.uint8
        assert (logits(model, pictures).argmax(1) == target).all()
    assert all(p.grad is None for p in model.parameters())
    assert nearest(pictures, pictures[::-1]) == pytest.approx(0, abs=1e-6)
    assert nearest(np.zeros((1, 1, 32, 32), np.uint8), np.full((3, 1, 32, 32), 255, np.uint8)) == pytest.approx(1)
