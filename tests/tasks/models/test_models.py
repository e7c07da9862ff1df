"""Architectures, checkpoints, freezing, inference: what every later stage rests on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from task_of_squares import SPEC, squares
from torch import nn

from tasks.errors import GatehouseError
from tasks.models.architectures import ARCHITECTURES, Classifier, ModelSpec, Normalise, build, new_head
from tasks.models.checkpoints import RECORD, WEIGHTS, digest, load_model, load_tensors, save_model, to_bytes
from tasks.models.freezing import freeze, train_mode, trainable_blocks
from tasks.models.inference import as_float, features, frozen_copy, logits, probabilities, require_finite
from tasks.models.vision import torchvision_models

IMAGES, LABELS = squares(12, seed=0)


@pytest.fixture
def model() -> Classifier:
    return build(SPEC, seed=0)


# --- architectures -------------------------------------------------------------------------------------------------


def test_the_simple_network_is_of_the_studys_size() -> None:
    assert 200_000 < sum(p.numel() for p in build(SPEC, seed=0).parameters()) < 300_000


@pytest.mark.parametrize(
    ("architecture", "channels", "statistics"),
    [
        *(("simple_cnn", channels, statistics) for channels in (1, 3) for statistics in (1, 3)),
        *(("resnet18", channels, statistics) for channels, statistics in ((1, 1), (1, 3), (3, 3))),
    ],
)
def test_every_architecture_takes_images_of_its_spec(architecture: str, channels: int, statistics: int) -> None:
    spec = ModelSpec(
        architecture=architecture,
        classes=("a", "b", "c"),
        channels=channels,
        image_size=32,
        mean=(0.5,) * statistics,
        sd=(0.2,) * statistics,
    )
    own = build(spec, seed=0)
    x = torch.rand(2, channels, 32, 32)
    with torch.no_grad():
        assert own(x).shape == (2, 3)
        assert own.features(x).shape == (2, own.width)
        half = own.run_blocks(x, 0, 2)
        torch.testing.assert_close(own.head(own.run_blocks(half, 2)), own(x))


def test_efficientnet_lite0_if_its_extra_is_installed() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the `teachers` extra is not installed")
    spec = ModelSpec(architecture="efficientnet_lite0", classes=("a", "b"), image_size=32)
    assert features(build(spec, seed=0), torch.rand(2, 1, 32, 32)).shape == (2, 1280)


def test_resnet18_is_torchvisions() -> None:
    own = build(ModelSpec(architecture="resnet18", classes=("a", "b"), channels=3, image_size=32), seed=0)
    theirs = torchvision_models().resnet18(weights=None)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), list(own.blocks.state_dict().values()), strict=True)))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(own.normalise(x)), own.features(x))


@pytest.mark.parametrize("architecture", ["simple_cnn", "resnet18"])
def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone(architecture: str) -> None:
    spec = SPEC.model_copy(update={"architecture": architecture})
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second, other = (digest(build(spec, seed=s)) for s in (4, 4, 5))
    assert torch.equal(torch.rand(3), expected)
    assert first == second != other


def test_an_unknown_architecture_names_those_that_are_known() -> None:
    with pytest.raises(GatehouseError, match="'vgg' is unknown; known are simple_cnn, resnet18"):
        build(SPEC.model_copy(update={"architecture": "vgg"}), seed=0)
    assert set(ARCHITECTURES) >= {"simple_cnn", "resnet18", "efficientnet_lite0"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": ("one",)},
        {"mean": (0.5, 0.5), "sd": (0.2, 0.2)},
        {"mean": (0.5,), "sd": (0.2, 0.2, 0.2)},
        {"sd": (0.0,)},
        {"channels": 2},
        {"image_size": 8},
        {"colour": "gray"},
    ],
)
def test_a_spec_that_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.model_validate({**SPEC.model_dump(), **wrong})


def test_normalising_works_in_pixel_units() -> None:
    out = Normalise((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))(torch.full((1, 1, 2, 2), 0.75))
    assert out[0, :, 0, 0].tolist() == [0.5, 2.0, 0.75]


def test_a_new_head_is_seeded_and_leaves_features_alone(model: Classifier) -> None:
    before = features(model, IMAGES)
    new_head(model, 5, seed=1)
    assert torch.equal(features(model, IMAGES), before)
    assert logits(model, IMAGES).shape == (12, 5)
    assert digest(new_head(build(SPEC, seed=0), 5, seed=1)) == digest(model)


# --- freezing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "trainable"), [("all", 5), ("last", 1), ("none", 0), (0, 0), (3, 3), (5, 5)])
def test_freezing_counts_blocks_from_the_head(model: Classifier, policy: str | int, trainable: int) -> None:
    assert trainable_blocks(model, policy) == trainable  # type: ignore[arg-type]
    frozen = freeze(model, policy)  # type: ignore[arg-type]
    assert frozen == 5 - trainable
    train_mode(model, frozen)
    for i, block in enumerate(model.blocks.values()):
        assert all(p.requires_grad == (i >= frozen) for p in block.parameters())
        assert all(m.training == (i >= frozen) for m in block.modules())
    assert all(p.requires_grad for p in model.head.parameters())


def test_a_policy_is_not_sticky(model: Classifier) -> None:
    freeze(model, "none")
    freeze(model, "all")
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("policy", [6, -1])
def test_more_blocks_than_there_are_is_refused(model: Classifier, policy: int) -> None:
    with pytest.raises(GatehouseError, match=r"out of range: the model has 5 blocks"):
        freeze(model, policy)


# --- inference -----------------------------------------------------------------------------------------------------


def test_outputs_do_not_depend_on_batches_or_on_the_kind_of_images(model: Classifier) -> None:
    whole = logits(model, IMAGES, batch=100)
    torch.testing.assert_close(logits(model, IMAGES, batch=5), whole)
    torch.testing.assert_close(logits(model, as_float(IMAGES)), whole)
    torch.testing.assert_close(probabilities(model, IMAGES).sum(1), torch.ones(12))
    assert logits(model, IMAGES[:0]).shape == (0, 3)
    assert features(model, IMAGES[:0]).shape == (0, model.width)


def test_inference_leaves_every_modules_mode_as_it_was(model: Classifier) -> None:
    train_mode(model, freeze(model, "last"))
    before = [m.training for m in model.modules()]
    statistics = digest(model)
    logits(model, IMAGES)
    assert [m.training for m in model.modules()] == before
    assert True in before
    assert False in before
    assert digest(model) == statistics


def test_outputs_that_are_not_finite_are_refused(model: Classifier) -> None:
    with torch.no_grad():
        model.head.bias[1] = torch.inf
    with pytest.raises(GatehouseError, match="models/student answers 12 of 12 images"):
        require_finite(logits(model, IMAGES), source="models/student")
    fine = torch.zeros(2, 3)
    assert require_finite(fine, source="x") is fine


def test_a_frozen_copy_is_a_copy_without_parameter_gradients(model: Classifier) -> None:
    own = frozen_copy(model.train())
    assert not own.training
    assert not any(p.requires_grad for p in own.parameters())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(logits(own, IMAGES), logits(model, IMAGES))


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_model_reads_back_with_its_digest_and_parents(tmp_path: Path, model: Classifier) -> None:
    record = save_model(tmp_path / "m", model, SPEC, parents={"teacher": "t"}, notes={"freeze": "last"})
    again, read = load_model(tmp_path / "m")
    assert read == record
    assert (record.sha256, record.parents, record.notes) == (digest(model), {"teacher": "t"}, {"freeze": "last"})
    assert torch.equal(logits(again, IMAGES), logits(model, IMAGES))
    assert not again.training
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [RECORD, WEIGHTS]


def test_the_memory_layout_does_not_change_the_bytes(model: Classifier) -> None:
    assert to_bytes(frozen_copy(model)) == to_bytes(model)


def test_changed_weights_are_refused(tmp_path: Path, model: Classifier) -> None:
    save_model(tmp_path, model, SPEC)
    path = tmp_path / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(GatehouseError, match="digests differ"):
        load_model(tmp_path)
    path.unlink()
    with pytest.raises(GatehouseError, match="does not exist"):
        load_model(tmp_path)


def test_a_record_that_is_missing_or_malformed_is_one_sentence(tmp_path: Path, model: Classifier) -> None:
    with pytest.raises(GatehouseError, match=r"model\.json does not exist"):
        load_model(tmp_path)
    save_model(tmp_path, model, SPEC)
    content = json.loads((tmp_path / RECORD).read_text())
    content["spec"]["channels"] = 2
    (tmp_path / RECORD).write_text(json.dumps(content))
    with pytest.raises(GatehouseError, match=r"model\.json is malformed"):
        load_model(tmp_path)


def broken(model: Classifier) -> dict[str, tuple[bytes, str]]:
    tensors = load(to_bytes(model))
    name = "head.weight"
    nan = tensors[name].clone()
    nan[0, 0] = torch.nan
    return {
        "missing": (save({k: v for k, v in tensors.items() if k != name}), "lacks 1 tensor.*'head.weight'"),
        "extra": (save({**tensors, "trojan": torch.zeros(1)}), "holds 1 tensor.*'trojan'"),
        "shape": (save({**tensors, name: torch.zeros(2, 72)}), r"'head.weight' is torch.float32 \(2, 72\)"),
        "dtype": (save({**tensors, name: tensors[name].half()}), "is torch.float16"),
        "not finite": (save({**tensors, name: nan}), "not finite"),
        "a pickle": (b"\x80\x04\x95\x00", "not a safetensors file"),
        "cut short": (to_bytes(model)[:5000], "not a safetensors file"),
        "empty": (b"", "not a safetensors file"),
    }


@pytest.mark.parametrize("kind", ["missing", "extra", "shape", "dtype", "not finite", "a pickle", "cut short", "empty"])
def test_weights_that_do_not_fit_are_one_sentence_and_change_nothing(model: Classifier, kind: str) -> None:
    data, says = broken(model)[kind]
    before = digest(model)
    with pytest.raises(GatehouseError, match=says):
        load_tensors(model, data, source="x.safetensors")
    assert digest(model) == before


GOOD = to_bytes(build(SPEC, seed=0))
HEADER = int.from_bytes(GOOD[:8], "little") + 8


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, HEADER - 1), value=st.integers(0, 255))
def test_a_byte_of_the_header_changed_loads_or_is_refused_in_one_sentence(at: int, value: int) -> None:
    data = bytearray(GOOD)
    data[at] = value
    own = build(SPEC, seed=1)
    said = ""
    try:
        load_tensors(own, bytes(data), source="x.safetensors")
    except GatehouseError as error:
        said = str(error)
    assert not said or said.startswith("x.safetensors")
    assert all(np.isfinite(t.numpy()).all() for t in own.state_dict().values())
