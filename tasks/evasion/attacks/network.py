"""The attacked model as attacks see it: a copy in evaluation mode, with gradients for images alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.models.architectures import Classifier
from tasks.models.inference import frozen_copy


class Attacked(nn.Module):
    """Answers of a copy of `model`, features by bfloat16 autocast where asked for; the model itself is not changed.

    Measured, gradients in bfloat16 take half the time at the same success.
    """

    def __init__(self, model: Classifier, *, bfloat16: bool) -> None:
        super().__init__()
        self.own, self.fast = frozen_copy(model), bfloat16

    def features(self, x: Tensor, block: str | None = None) -> Tensor:
        """Output of the named block, flattened to (n, …); of the last one by default.

        Raises:
            KeyError: the model has no such block.
        """
        last = None if block is None else self.own.block_names.index(block) + 1 if block in self.own.blocks else -1
        if last == -1:
            raise KeyError(f"no block {block!r}; there are {', '.join(self.own.block_names)}")
        with torch.autocast("cpu", torch.bfloat16, enabled=self.fast):
            out = self.own.run_blocks(x.contiguous(memory_format=torch.channels_last), 0, last)
        return out.float().flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 (n, classes)."""
        return self.own.head(self.features(x))
