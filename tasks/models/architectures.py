"""The architectures, each a chain of named feature blocks and a linear head.

Every model takes images as float32 in [0, 1], shape (n, channels, side, side), and normalises them itself, as the
study does (section 2.2.1), so that attacks and defences work in pixel units throughout.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from tasks.errors import GatehouseError
from tasks.models.device import current_device
from tasks.models.guards import Guard, GuardName, new_guard

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)
_SEEDING = threading.Lock()  # fresh weights come from the process-wide generator, which trainings side by side share


class ModelSpec(BaseModel):
    """Everything that decides a model's tensors, their names and shapes, and what its outputs mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    classes: tuple[str, ...] = Field(min_length=2)
    channels: int = Field(default=1, ge=1, le=3)
    image_size: int = Field(default=64, ge=16, le=512)
    mean: tuple[float, ...] = (0.5,)
    sd: tuple[float, ...] = (0.25,)
    guard: GuardName = "none"

    @model_validator(mode="after")
    def _statistics_fit(self) -> ModelSpec:
        if len(self.mean) != len(self.sd) or len(self.mean) not in (1, 3) or self.channels not in (1, 3):
            raise ValueError("mean and sd must have one value each, or three each, for images of 1 or 3 channels")
        if any(s <= 0 for s in self.sd):
            raise ValueError("sd must be positive")
        return self


class Normalise(nn.Module):
    """(x − mean) / sd per channel; a gray image is repeated to as many channels as the statistics have."""

    mean: Tensor
    sd: Tensor

    def __init__(self, mean: tuple[float, ...], sd: tuple[float, ...]) -> None:
        super().__init__()
        # Not persistent: the values live in model.json, and weights files hold trained tensors only.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(sd).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1 and self.mean.shape[1] > 1:
            x = x.expand(-1, self.mean.shape[1], -1, -1)
        return (x - self.mean) / self.sd


class Classifier(nn.Module):
    """`guard` if any, `normalise`, then `blocks` in order (the last one pools to a vector), then a linear `head`."""

    def __init__(self, normalise: Normalise, blocks: OrderedDict[str, nn.Module], width: int, classes: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.blocks = nn.ModuleDict(blocks)
        self.width = width
        self.head = nn.Linear(width, classes)
        self.guard: Guard | None = None

    @property
    def block_names(self) -> tuple[str, ...]:
        return tuple(self.blocks)

    def run_blocks(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Apply blocks[first:last]; from block 0 the input is an image, from a later one its activations.

        The result lies where the input lay, wherever the blocks compute (see `tasks.models.device`).
        """
        home, device = x.device, self.normalise.mean.device
        if device != home:
            with torch.autocast(device.type, torch.bfloat16, enabled=torch.is_autocast_enabled(home.type)):
                return self._run(x.to(device), first, last).to(home)
        return self._run(x, first, last)

    def _run(self, x: Tensor, first: int, last: int | None) -> Tensor:
        copies = self.guard.copies if self.guard and first == 0 else 1
        if copies > 1 and last not in (None, len(self.blocks)):
            raise ValueError("a vote is counted after the last block; stop there, or take the guard off")
        if first == 0:
            x = self.normalise(self.guard(x) if self.guard else x)
        for block in list(self.blocks.values())[first:last]:
            x = block(x)
        return x.unflatten(0, (-1, copies)).mean(1) if copies > 1 else x

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features, shape (n, width)."""
        return self.run_blocks(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (n, classes)."""
        return self.head(self.features(x))


def _conv(inputs: int, outputs: int, *, stride: int = 1, pool: bool = False) -> list[nn.Module]:
    """Convolution, normalisation, perhaps pooling, ReLU (which commutes with max pooling and is cheaper after it)."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(outputs)]
    return [*layers, *([nn.MaxPool2d(2)] if pool else []), nn.ReLU(inplace=True)]


def simple_cnn(spec: ModelSpec) -> Classifier:
    """The study's small network in kind (section 2.2.1, Figure 25): about 250 thousand parameters, no residuals.

    The first two blocks halve the image by stride: pooling at full size took over a third of the training time.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict(
        block1=nn.Sequential(*_conv(max(len(spec.mean), spec.channels), 24, stride=2)),
        block2=nn.Sequential(*_conv(24, 48, stride=2)),
        block3=nn.Sequential(*_conv(48, 96, pool=True)),
        block4=nn.Sequential(*_conv(96, 128, pool=True)),
        block5=nn.Sequential(*_conv(128, 72), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    return Classifier(Normalise(spec.mean, spec.sd), blocks, 72, len(spec.classes))


def resnet18(spec: ModelSpec) -> Classifier:
    """ResNet-18 (He 2016) from torchvision; weights may come from a file of torchvision's own, never from a network."""
    from tasks.models.vision import torchvision_models

    net = torchvision_models().resnet18(weights=None)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool)),
        layer1=net.layer1,
        layer2=net.layer2,
        layer3=net.layer3,
        layer4=nn.Sequential(OrderedDict(layer4=net.layer4, pool=net.avgpool, flat=nn.Flatten())),
    )
    return Classifier(Normalise(*_three(spec)), blocks, 512, len(spec.classes))


# The seven stages of EfficientNet-Lite0, as positions in its list of sixteen blocks.
LITE0_STAGES = (0, 1, 3, 5, 8, 11, 15, 16)


def efficientnet_lite0(spec: ModelSpec) -> Classifier:
    """EfficientNet-Lite0 from the `teachers` extra (package efficientnet-lite-pytorch), 1 280 features.

    Its convolutions pad as TensorFlow's "SAME" does, which depends on the image's side: it is fixed by `image_size`.
    The published network's dropout and stochastic depth, which act in training alone, are left out.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise GatehouseError(
            "Architecture efficientnet_lite0 needs the `teachers` extra; run `.venv/bin/pip install -e .[teachers]`."
        ) from None
    net = EfficientNet.from_name("efficientnet-lite0", image_size=spec.image_size)
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    stages["stem"] = nn.Sequential(OrderedDict(conv=net._conv_stem, bn=net._bn0, act=nn.ReLU6()))
    for i, (start, end) in enumerate(pairwise(LITE0_STAGES), start=1):
        stages[f"stage{i}"] = nn.Sequential(*net._blocks[start:end])
    stages["top"] = nn.Sequential(
        OrderedDict(conv=net._conv_head, bn=net._bn1, act=nn.ReLU6(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    )
    return Classifier(Normalise(*_three(spec)), stages, 1280, len(spec.classes))


def _three(spec: ModelSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Statistics for networks whose first layer takes three channels."""
    return (spec.mean * 3, spec.sd * 3) if len(spec.mean) == 1 else (spec.mean, spec.sd)


ARCHITECTURES: dict[str, Callable[[ModelSpec], Classifier]] = {
    "simple_cnn": simple_cnn,
    "resnet18": resnet18,
    "efficientnet_lite0": efficientnet_lite0,
}


def build(spec: ModelSpec, *, seed: int) -> Classifier:
    """A freshly initialised model in evaluation mode; the same seed gives the same weights."""
    if spec.architecture not in ARCHITECTURES:
        raise GatehouseError(f"Architecture {spec.architecture!r} is unknown; known are {', '.join(ARCHITECTURES)}.")
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARCHITECTURES[spec.architecture](spec)
        model.guard = new_guard(spec.guard, spec.image_size, seed=seed)
    for part in (model.normalise, model.blocks, *([model.guard] if model.guard else [])):
        # Channels last: max pooling on CPU is twenty times as fast so, and a training step a third faster.
        part.to(current_device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval()


def new_head(model: Classifier, classes: int, *, seed: int) -> Classifier:
    """Replace the head in place by a new one for `classes` classes, as transfer learning does; returns the model."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.head = nn.Linear(model.width, classes)
    return model


def reinitialise(model: Classifier, *, seed: int) -> None:
    """Fresh weights in place, all of them, as `build` draws them for this seed up to the order of drawing."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
