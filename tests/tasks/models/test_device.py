"""Models compute where they are told to; on a CUDA device they train as on the processor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.device import current_device, use_device
from tasks.models.inference import features, logits
from tasks.models.training import fit
from tasks.params import load_params

SPEC = ModelSpec(architecture="simple_cnn", classes=("dark", "bright"), image_size=16)
CUDA = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    use_device("cpu")
    torch.use_deterministic_algorithms(deterministic)


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 2
    noise = np.random.default_rng(seed).integers(0, 80, (n, 1, 16, 16))
    return (noise + 120 * labels[:, None, None, None]).astype(np.uint8), labels.astype(np.int64)


def trained(device: str, policy: str) -> Classifier:
    use_device(device)
    model = build(SPEC, seed=0)
    recipe = load_params().student.model_copy(update={"epochs": 2, "patch_probability": 0.0, "bfloat16": False})
    fit(model, images(64, 1), images(16, 2), recipe, policy=policy, seed=0)
    return model


@pytest.mark.skipif(CUDA, reason="there is a CUDA device")
def test_a_missing_device_is_one_sentence() -> None:
    with pytest.raises(GatehouseError, match="finds none"):
        use_device("cuda")
    assert current_device().type == "cpu"


def test_blocks_in_part_are_the_blocks_in_whole() -> None:
    model, x = build(SPEC, seed=0), torch.rand(3, 1, 16, 16)
    assert torch.equal(model.run_blocks(model.run_blocks(x, 0, 2), 2), model.features(x))


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("policy", ["all", "last", "none"])
def test_cuda_agrees_with_the_processor(policy: str) -> None:
    here, there = trained("cpu", policy), trained("cuda", policy)
    assert there.normalise.mean.device.type == "cuda"
    assert there.head.weight.device.type == "cpu"
    test = images(40, 3)[0]
    assert features(there, test).device.type == logits(there, test).device.type == "cpu"
    assert torch.allclose(logits(here, test), logits(there, test), atol=0.05)
