"""Training: frozen is frozen, an interrupted run ends as an undisturbed one, stopping and weights are right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from task_of_squares import SPEC, TRAINING, squares

from tasks.errors import GatehouseError
from tasks.models import training as module
from tasks.models.architectures import Classifier, build, new_head
from tasks.models.checkpoints import digest
from tasks.models.inference import logits
from tasks.models.training import Epoch, class_weights, fit
from tasks.params import FreezePolicy

TRAIN, VAL = squares(96, seed=0), squares(45, seed=1)
PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    model = build(SPEC, seed=0)
    fit(model, TRAIN, VAL, TRAINING.model_copy(update={"epochs": 14}), policy="all", seed=0)
    return model


def fresh(teacher: Classifier) -> Classifier:
    model = build(SPEC, seed=9)
    model.load_state_dict(teacher.state_dict())
    return new_head(model, 3, seed=5)


def accuracy(model: Classifier, data: tuple[np.ndarray, np.ndarray]) -> float:
    return float((logits(model, data[0]).argmax(1).numpy() == data[1]).mean())


def test_it_learns(teacher: Classifier) -> None:
    assert accuracy(teacher, squares(90, seed=2)) > 0.9
    assert not teacher.training


@pytest.mark.parametrize(("policy", "frozen"), [("none", 5), ("last", 4), (2, 3), ("all", 0)])
@pytest.mark.parametrize("patch_probability", [0.0, 0.7])
def test_frozen_blocks_keep_parameters_and_batchnorm_statistics(
    teacher: Classifier, policy: FreezePolicy, frozen: int, patch_probability: float
) -> None:
    model = fresh(teacher)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    own = TRAINING.model_copy(update={"epochs": 1, "patch_probability": patch_probability})
    fit(model, TRAIN, VAL, own, policy=policy, seed=3)
    for name, tensor in model.state_dict().items():
        kept = torch.equal(tensor, before[name])
        block = int(name.split(".")[1][-1]) if name.startswith("blocks.") else 99
        assert kept == (block <= frozen), name


def test_features_computed_once_give_the_result_of_computing_them_every_epoch(
    teacher: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = fresh(teacher)
    fit(once, TRAIN, VAL, TRAINING, policy="last", seed=3)
    monkeypatch.setattr(module, "_frozen_features", lambda *_: None)
    again = fresh(teacher)
    fit(again, TRAIN, VAL, TRAINING, policy="last", seed=3)
    for a, b in zip(once.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(teacher: Classifier, bfloat16: bool) -> None:
    own = TRAINING.model_copy(update={"epochs": 1, "bfloat16": bfloat16, "patch_probability": 0.7})
    digests = []
    for seed in (3, 3, 4):
        model = fresh(teacher)
        fit(model, TRAIN, VAL, own, policy="all", seed=seed)
        digests.append(digest(model))
    assert digests[0] == digests[1] != digests[2]


# --- interruption --------------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("policy", ["all", "none"])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    tmp_path: Path, teacher: Classifier, policy: FreezePolicy
) -> None:
    own = TRAINING.model_copy(update={"patch_probability": 0.7, "class_weights": True})

    def cut(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            raise PowerCutError

    whole = fresh(teacher)
    expected = fit(whole, TRAIN, VAL, own, policy=policy, seed=3)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(PowerCutError):
        fit(fresh(teacher), TRAIN, VAL, own, policy=policy, seed=3, checkpoint=path, progress=cut)
    resumed, seen = fresh(teacher), []
    history = fit(resumed, TRAIN, VAL, own, policy=policy, seed=3, checkpoint=path, progress=seen.append)
    assert [e.epoch for e in seen] == [2]  # it went on, it did not start again
    assert digest(resumed) == digest(whole)
    assert [(e.epoch, e.loss, e.val_loss) for e in history] == [(e.epoch, e.loss, e.val_loss) for e in expected]


@pytest.mark.parametrize("change", ["seed", "policy", "training", "images", "validation", "weights"])
def test_a_checkpoint_of_anything_else_is_not_gone_on_from(tmp_path: Path, teacher: Classifier, change: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    own = TRAINING.model_copy(update={"epochs": 1})
    fit(fresh(teacher), TRAIN, VAL, own, policy="none", seed=3, checkpoint=path)
    model = new_head(fresh(teacher), 3, seed=6) if change == "weights" else fresh(teacher)
    seen: list[Epoch] = []
    fit(
        model,
        squares(96, seed=7) if change == "images" else TRAIN,
        squares(45, seed=7) if change == "validation" else VAL,
        own.model_copy(update={"weight_decay": 0.001}) if change == "training" else own,
        policy="last" if change == "policy" else "none",
        seed=4 if change == "seed" else 3,
        checkpoint=path,
        progress=seen.append,
    )
    assert [e.epoch for e in seen] == [0]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x08" + b"\0" * 7 + b"{}      "])
def test_a_damaged_checkpoint_starts_afresh(tmp_path: Path, teacher: Classifier, content: bytes) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    own = TRAINING.model_copy(update={"epochs": 1})
    assert len(fit(fresh(teacher), TRAIN, VAL, own, policy="none", seed=3, checkpoint=path)) == 1


RUN = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests/tasks/models")
import torch
torch.set_num_threads(1)
from test_training import digest_of_a_run

def kill(epoch):
    if epoch.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

print(digest_of_a_run(Path(sys.argv[1]), kill if sys.argv[2] == "kill" else None))
"""


def digest_of_a_run(checkpoint: Path | None, progress: Callable[[Epoch], None] | None) -> str:
    model = build(SPEC, seed=0)
    own = TRAINING.model_copy(update={"patch_probability": 0.7, "patch_adversarial": 1.0, "bfloat16": True})
    fit(model, TRAIN, VAL, own, policy="all", seed=3, checkpoint=checkpoint, progress=progress)
    return digest(model)


def test_a_run_killed_by_the_system_ends_with_the_digest_of_an_undisturbed_one(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"

    def run(what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", RUN, str(checkpoint), what],
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    killed = run("kill")
    assert killed.returncode == -9, killed.stderr
    assert checkpoint.exists()
    resumed = run("go on")
    assert resumed.stdout.strip() == digest_of_a_run(None, None), resumed.stderr


# --- schedule, weights, stopping -----------------------------------------------------------------------------------


def test_class_weights_are_inverse_to_frequency_with_mean_one() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    weights = class_weights(labels, 3)
    torch.testing.assert_close(weights, torch.tensor([100 / 180, 100 / 90, 100 / 30]))
    assert weights[torch.from_numpy(labels)].mean().item() == pytest.approx(1)
    assert class_weights(np.array([0, 0, 2]), 3)[1] == 0


def test_class_weights_keep_a_rare_class() -> None:
    images, labels = squares(150, seed=3)
    keep = np.flatnonzero((labels != 2) | (np.arange(150) < 12))  # four of class 2 beside a hundred others
    rare = (images[keep], labels[keep])
    test = squares(90, seed=4)
    recall = {}
    for weighted in (False, True):
        model = build(SPEC, seed=0)
        own = TRAINING.model_copy(update={"class_weights": weighted, "epochs": 12})
        fit(model, rare, VAL, own, policy="all", seed=0)
        recall[weighted] = accuracy(model, (test[0][test[1] == 2], test[1][test[1] == 2]))
    assert recall[True] >= recall[False]
    assert recall[True] > 0.5


def test_the_rate_is_a_cosine_with_a_short_start_and_a_slower_backbone(teacher: Classifier) -> None:
    own = TRAINING.model_copy(update={"epochs": 10, "learning_rate": 0.01, "backbone_scale": 0.25})
    optimiser = module._optimiser(fresh(teacher), own)
    rates = []
    for done in np.linspace(0, 1, 101):
        module._set_rate(optimiser, own, float(done))
        head, backbone = (g["lr"] for g in optimiser.param_groups)
        assert backbone == pytest.approx(0.25 * head)
        rates.append(head)
    assert rates[0] == pytest.approx(0.001)  # a tenth
    assert max(rates) == pytest.approx(0.01, rel=0.05)
    assert int(np.argmax(rates)) == 5  # after half an epoch of ten
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert rates[50] == pytest.approx(0.005, rel=0.01)


def test_training_stops_early_and_keeps_its_best_epoch(teacher: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 0.3, 0.4, 0.35, 0.9, 0.1])
    kept: list[dict[str, torch.Tensor]] = []

    def validate(model: Classifier, *_: object) -> tuple[float, float]:
        kept.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(losses), 0.5

    monkeypatch.setattr(module, "_validate", validate)
    model = fresh(teacher)
    own = TRAINING.model_copy(update={"epochs": 6, "patience": 2})
    history = fit(model, TRAIN, VAL, own, policy="none", seed=3)
    assert [e.val_loss for e in history] == [0.5, 0.3, 0.4, 0.35]  # two epochs without a better one
    assert all(torch.equal(v, kept[1][k]) for k, v in model.state_dict().items())


def test_validation_weighs_classes_as_training_does(teacher: Classifier) -> None:
    weights = torch.tensor([1.0, 0.0, 0.0])
    only_first = (VAL[0][VAL[1] == 0], VAL[1][VAL[1] == 0])
    assert module._validate(teacher, VAL, weights)[0] == pytest.approx(module._validate(teacher, only_first, None)[0])


# --- bad input -----------------------------------------------------------------------------------------------------


def test_an_empty_split_is_refused(teacher: Classifier) -> None:
    with pytest.raises(GatehouseError, match="at least one training and one validation image"):
        fit(fresh(teacher), (TRAIN[0][:0], TRAIN[1][:0]), VAL, TRAINING, policy="all", seed=0)


def test_a_training_that_diverges_says_so(teacher: Classifier) -> None:
    with pytest.raises(GatehouseError, match=r"diverged in epoch 0.*lower the learning rate"):
        fit(fresh(teacher), TRAIN, VAL, TRAINING.model_copy(update={"learning_rate": 1e30}), policy="all", seed=0)


def test_a_single_image_left_over_is_no_batch(teacher: Classifier) -> None:
    odd = (TRAIN[0][:33], TRAIN[1][:33])  # 32 and one: BatchNorm cannot train on one
    history = fit(fresh(teacher), odd, VAL, TRAINING.model_copy(update={"epochs": 1}), policy="all", seed=0)
    assert np.isfinite(history[0].loss)
