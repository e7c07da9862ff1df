"""Fine-Pruning: what is cut stays cut, the guard holds, and the backdoor shrinks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tasks.backdoor.defences.common import Mitigated
from tasks.backdoor.defences.fine_pruning import cut_channels, fine_prune, last_norm, mean_activation
from tasks.backdoor.drill import control_by
from tasks.errors import GatehouseError
from tasks.models.architectures import build
from tasks.models.checkpoints import digest
from tasks.models.inference import as_float, features


@pytest.fixture(scope="session")
def pruned(world) -> Mitigated:
    return fine_prune(
        world.backdoored, world.train, world.val, world.recipe(3, 0.7), pruning_ratio=0.6, seed=0
    )  # fmt: skip


def test_pruned_channels_are_silent_after_fine_tuning(world, pruned: Mitigated) -> None:
    assert 0 < len(pruned.note["channels"]) <= 0.6 * pruned.note["of"]
    answers = features(pruned.model, world.test[0])
    silent = torch.zeros(answers.shape[1], dtype=torch.bool)
    silent[pruned.note["channels"]] = True
    assert torch.equal(answers[:, silent], torch.zeros_like(answers[:, silent]))
    assert float(answers[:, ~silent].abs().sum()) > 0
    norm = last_norm(pruned.model)
    assert not norm.weight[silent].any()
    assert not norm.bias[silent].any()
    kept = last_norm(world.backdoored).weight[~silent]
    assert not torch.equal(norm.weight[~silent], kept)  # the rest did train


def test_the_backdoor_shrinks_and_accuracy_stays(world, pruned: Mitigated) -> None:
    before = control_by(world.backdoored, world.trigger, world.test).value
    after = control_by(pruned.model, world.trigger, world.test).value
    assert before > 0.8
    assert after < 0.3
    assert pruned.note["accuracy_after"] > pruned.note["accuracy_before"] - 0.05


def test_the_original_stays_as_it_was(world, pruned: Mitigated) -> None:
    assert digest(pruned.model) != digest(world.backdoored)
    assert not any(p._backward_hooks for p in pruned.model.parameters())


def test_guard_stops_pruning_before_it_costs_more(world, pruned: Mitigated) -> None:
    assert pruned.note["accuracy_pruned"] >= pruned.note["accuracy_before"] - 0.04
    none = fine_prune(
        world.clean, world.train, world.val, world.recipe(1), pruning_ratio=0.9, seed=0, guard=-1.0
    )  # fmt: skip
    assert none.note["channels"] == []
    assert none.note["accuracy_pruned"] == none.note["accuracy_before"]


def test_the_quietest_channels_go_first(world) -> None:
    model = copy.deepcopy(world.clean)
    norm = last_norm(model)
    cut_channels(norm, np.array([5, 9]))
    activation = mean_activation(model, norm, world.train[0])
    assert set(np.argsort(activation, kind="stable")[: int((activation == 0).sum())]) >= {5, 9}
    # For this network the features are the means over places of the activations that are ranked.
    wanted = features(model, as_float(world.train[0])).mean(0).numpy()
    np.testing.assert_allclose(activation, wanted, rtol=1e-3, atol=1e-5)


def test_a_model_without_normalisation_is_refused_in_one_sentence(world) -> None:
    model = build(world.spec, seed=0)
    for block in model.blocks.values():
        for i, layer in enumerate(block):
            if isinstance(layer, nn.BatchNorm2d):
                block[i] = nn.Identity()
    with pytest.raises(GatehouseError, match="normalisation layer"):
        last_norm(model)
