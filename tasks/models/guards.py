"""Input guards: what a model does to an image before its first layer, so that small changes lose their effect.

A guard is part of the model: its tensors are in the weights file, so that what the gates judged is what is served. None
hides gradients from attacks that run on the model: the low pass is differentiable, JPEG passes the gradient straight
through (BPDA, Athalye 2018), and the vote's masks are fixed, so that their mean is attacked as a whole (EOT).
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.params import GuardName

QUALITY = 60  # of JPEG
VOTES, DROPPED = 8, 0.2  # masks of the vote, and the share of pixels that each drops


class Guard(nn.Module):
    """Maps images (n, channels, side, side) in [0, 1] to such images; `copies` of each, one after another."""

    copies = 1


class LowPass(Guard):
    """Binomial blur over 3 × 3 pixels, borders repeated."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", line[:, None] * line)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


class Jpeg(Guard):
    """Compression and decompression; the gradient passes as if nothing had been done."""

    quality: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("quality", torch.tensor(QUALITY))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            pixels = (x.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            through = np.stack([self._through(image) for image in pixels]) if len(pixels) else pixels
            out = torch.from_numpy(through).to(x.device, x.dtype).permute(0, 3, 1, 2) / 255
        return x + (out - x).detach()

    def _through(self, image: np.ndarray) -> np.ndarray:
        file = BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            file, "JPEG", quality=int(self.quality)
        )
        return np.asarray(Image.open(file)).reshape(image.shape)


class DropoutVote(Guard):
    """Each mask sets its own pixels to mid-gray; the model's features are averaged over all of them."""

    masks: Tensor
    copies = VOTES

    def __init__(self, side: int, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("masks", torch.rand(VOTES, 1, side, side, generator=generator) < DROPPED)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.masks[None], 0.5, x[:, None]).flatten(0, 1)


def new_guard(name: GuardName, side: int, *, seed: int = 0) -> Guard | None:
    """The guard of that name for images of `side` pixels; the seed draws the vote's masks."""
    if name == "dropout":
        return DropoutVote(side, seed=seed)
    return {"none": lambda: None, "low_pass": LowPass, "jpeg": Jpeg}[name]()
