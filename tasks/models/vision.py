"""torchvision, also where its compiled operators cannot load beside a CPU build of torch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

_libraries: list[Any] = []  # torch.library keeps a definition only as long as its Library object lives


def torchvision_models() -> ModuleType:
    """`torchvision.models`. Its import registers fake kernels for two operators, whose schemas must exist by then."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
    from torchvision import models

    return models
