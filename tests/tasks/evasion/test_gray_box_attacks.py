"""Attacks that know the teacher alone: what they promise of its features, and what a student makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TRAINING, Case, bright_squares

from tasks.evasion.attacks.activation import activate
from tasks.evasion.attacks.fingerprint import answers_of, blank_images, confusion, dispersion, fingerprint, named
from tasks.evasion.attacks.mimicry import mimic, repel
from tasks.evasion.attacks.network import Attacked
from tasks.evasion.reference import copied_students
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.inference import features
from tasks.models.training import fit


def test_mimicry_works_at_any_block(case: Case) -> None:
    x, targets = case.sample.x[:16], case.sample.x[case.sample.targets][:16]
    net = Attacked(case.teacher, bfloat16=False)
    for block in ("block2", "block4", "block5"):
        wanted = net.features(targets, block)
        before = (net.features(x, block) - wanted).norm(dim=1)
        after = (net.features(mimic(case.teacher, x, targets, eps=0.1, steps=10, block=block), block) - wanted).norm(
            dim=1
        )
        assert bool((after < before).all()), block
    with pytest.raises(KeyError, match="no block 'block9'"):
        mimic(case.teacher, x, targets, eps=0.1, steps=2, block="block9")


def test_the_last_block_is_the_default(case: Case) -> None:
    x, targets = case.sample.x[:8], case.sample.x[case.sample.targets][:8]
    named_block = mimic(case.teacher, x, targets, eps=0.1, steps=5, block="block5")
    assert torch.equal(named_block, mimic(case.teacher, x, targets, eps=0.1, steps=5))


def test_repelled_images_leave_their_own_features_further_than_noise_does(case: Case) -> None:
    x = case.sample.x[:24]
    own = features(case.teacher, x)
    start = repel(case.teacher, x, eps=0.08, steps=0, seed=1)
    away = repel(case.teacher, x, eps=0.08, steps=10, seed=1)
    assert float((away - x).abs().max()) <= 0.08 + 1e-6
    far, noisy = ((features(case.teacher, z) - own).norm(dim=1) for z in (away, start))
    assert bool((far >= noisy - 1e-4).all())
    assert float(far.mean()) > 1.5 * float(noisy.mean())


def test_an_activated_feature_stands_out(case: Case) -> None:
    x = case.sample.x[:16]
    before = features(case.teacher, x)
    live = torch.argsort(before.std(0), descending=True)[:4]
    for unit in live.tolist():
        changed = activate(case.teacher, x, unit, eps=0.15)
        assert float((changed - x).abs().max()) <= 0.15 + 1e-6
        after = features(case.teacher, changed)
        assert float(after[:, unit].mean()) > float(before[:, unit].mean())
        rest = [k for k in range(after.shape[1]) if k != unit]
        share = after[:, unit] / after.norm(dim=1)
        assert float(share.mean()) > float((before[:, unit] / before.norm(dim=1)).mean())
        assert len(rest) == case.teacher.width - 1


@pytest.fixture(scope="module")
def teachers(case: Case) -> dict[str, Classifier]:
    out = {"own": case.teacher}
    for seed in (11, 12):
        model = build(ModelSpec(architecture="simple_cnn", classes=("top", "bottom"), image_size=16), seed=seed)
        train, val = bright_squares(120, seed=seed, classes=2), bright_squares(40, seed=seed + 50, classes=2)
        fit(model, train, val, TRAINING, policy="all", seed=seed)
        out[f"other{seed}"] = model
    return out


def test_a_fingerprint_names_the_teacher(case: Case, teachers: dict[str, Classifier]) -> None:
    probes = {n: blank_images(t, channels=1, side=16, count=4, seed=0) for n, t in teachers.items()}
    for name, teacher in teachers.items():
        assert float(features(teacher, probes[name]).norm(dim=1).mean()) < 0.3 * float(
            features(teacher, case.train[0][:32]).norm(dim=1).mean()
        )
        (student,) = copied_students(teacher, *case.train, 3, count=1, seed=1)
        found = fingerprint(answers_of(student), probes)
        assert named(found) == name
        assert found[name] < 0.3 * min(v for n, v in found.items() if n != name)


def test_confusion_names_a_copied_student_among_the_line_up(case: Case, teachers: dict[str, Classifier]) -> None:
    students = {name: copied_students(t, *case.train, 3, count=1, seed=1)[0] for name, t in teachers.items()}
    rows = confusion(students, teachers, channels=1, side=16, count=4, seed=0)
    assert [r["student"] for r in rows] == [r["named"] for r in rows] == list(teachers)
    for row in rows:
        assert list(row["dispersions"]) == list(teachers)
        assert row["dispersions"][row["named"]] == min(row["dispersions"].values())


def test_dispersion_is_zero_for_equal_answers_and_knows_no_bias() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 3))
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    biased = scores * np.array([5.0, 1.0, 0.2])
    assert dispersion(np.tile(scores[:1], (9, 1))) == pytest.approx(0)
    assert dispersion(scores) == pytest.approx(dispersion(biased / biased.sum(1, keepdims=True)))
    certain = np.tile([[1 - 2e-6, 1e-6, 1e-6]], (9, 1))  # what a head that is sure of everything answers
    assert dispersion(certain) > dispersion(scores)
    expected = (logits - logits.mean(1, keepdims=True)).std(0).mean()
    assert dispersion(scores) == pytest.approx(expected)
