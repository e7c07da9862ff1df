"""Terms that part a student from its teacher, or bind it, do so, and fresh weights are fresh."""

from __future__ import annotations

import pytest
import torch
from task_of_squares import SPEC, TRAINING, squares

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, build, reinitialise
from tasks.models.checkpoints import digest
from tasks.models.inference import accuracy_of, features
from tasks.models.teacher_terms import APART, teacher_term
from tasks.models.training import fit
from tasks.params import Training


def recipe(**changes: float) -> Training:
    return TRAINING.model_copy(update={"epochs": 6, **changes})


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    torch.set_num_threads(1)
    model = build(SPEC, seed=3)
    fit(model, squares(200, seed=5), squares(60, seed=6), recipe(), policy="all", seed=3)
    return model


def student(teacher: Classifier, training: Training) -> Classifier:
    model = build(SPEC, seed=0)
    model.load_state_dict(teacher.state_dict())
    fit(model, squares(200, seed=0), squares(60, seed=1), training, policy="all", seed=0)
    return model


def gap(model: Classifier, teacher: Classifier) -> float:
    """Mean squared distance of features, in squared lengths of the teacher's."""
    own, known = (features(m, squares(60, seed=2)[0]) for m in (model, teacher))
    return float(((own - known).square().sum(1) / known.square().sum(1)).mean())


def test_the_term_is_its_formula(teacher: Classifier) -> None:
    x = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    known = teacher.features(x).detach()
    off = 1.5 * known
    for weights, expected in (
        ({"distillation": 2.0}, 2 * 0.25),
        ({"neuron_distance": 2.0}, 2 * (APART - 0.25)),
        ({"neuron_distance": 1.0, "distillation": 1.0}, APART),
    ):
        term = teacher_term(teacher, recipe(**weights))
        assert term is not None
        assert float(term(x, off)) == pytest.approx(expected, abs=1e-3)
    assert teacher_term(teacher, recipe()) is None


def test_students_keep_away_from_their_teacher_or_near_it_as_the_recipe_says(teacher: Classifier) -> None:
    plain, away = student(teacher, recipe()), student(teacher, recipe(neuron_distance=5.0))
    assert gap(away, teacher) > 2 * gap(plain, teacher)
    fresh, bound = student(teacher, recipe(fresh=True)), student(teacher, recipe(fresh=True, distillation=5.0))
    assert gap(bound, teacher) < 0.7 * gap(fresh, teacher)
    for model in (plain, away, fresh, bound):
        assert accuracy_of(model, squares(60, seed=2)) > 0.8


def test_fresh_weights_are_all_fresh_and_repeat(teacher: Classifier) -> None:
    one, other = build(SPEC, seed=0), build(SPEC, seed=9)
    for model in (one, other):
        reinitialise(model, seed=4)
    assert digest(one) == digest(other) != digest(teacher)
    with pytest.raises(GatehouseError, match=r"set student\.freeze to `all`"):
        fit(one, squares(20, seed=0), squares(20, seed=1), recipe(fresh=True), policy="last", seed=0)
