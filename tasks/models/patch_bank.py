"""Patch-adversarial training: a bank of patches grows against the network while the network learns to ignore them.

Every step pastes a few patches of the bank on the batch, each at its own place and on images of other classes than its
own, and one backward pass serves both sides: the network descends, the patches ascend by the sign of their gradient
(adversarial training "for free", Shafahi 2019; with patches at places of their own, Rao 2020). A patch lives for `LIFE`
steps, then a fresh one takes its room, so that the network meets weak and strong ones all the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

SIZE = 96  # patches in the bank
DRAWN = 8  # patches pasted in one step: on a batch of 64 a gradient is then the mean over eight images
LIFE = 80  # steps of a patch before it is replaced
RATE = 0.15  # first size of a sign step, in pixel units; falls by a cosine over the patch's life
LEAST_RATE = 0.03


@dataclass
class Pasted:
    """What one step drew: rows of the bank, and their patterns as a leaf that the backward pass gives a gradient."""

    rows: Tensor
    patterns: Tensor


@dataclass
class PatchBank:
    """Patterns in [0, 1], shape (SIZE, channels, side, side), each with a class, a place and an age in steps.

    A patch of class c is pasted on images of other classes only: what it climbs is their way to c, or anywhere.
    """

    patterns: Tensor
    classes: Tensor
    top: Tensor
    left: Tensor
    age: Tensor
    image_size: int = field(default=64)

    def paste(self, x: Tensor, y: Tensor, *, share: float, generator: torch.Generator) -> tuple[Tensor, Pasted]:
        """A copy of images (n, channels, size, size) in [0, 1] with a patch on `share` of those that may carry one."""
        rows = torch.randperm(len(self.age), generator=generator)[:DRAWN]
        leaf = self.patterns[rows].clone().requires_grad_(True)
        slot = torch.randint(DRAWN, (len(y),), generator=generator)
        carries = (torch.rand(len(y), generator=generator) < share) & (self.classes[rows[slot]] != y)
        who, drawn = carries.nonzero()[:, 0], slot[carries]
        line = torch.arange(leaf.shape[-1])
        down = (self.top[rows[drawn]][:, None] + line)[:, :, None]
        right = (self.left[rows[drawn]][:, None] + line)[:, None, :]
        out = x.clone()
        out[who[:, None, None], :, down, right] = leaf[drawn].permute(0, 2, 3, 1)
        return out, Pasted(rows, leaf)

    @torch.no_grad()
    def climb(self, pasted: Pasted, generator: torch.Generator) -> None:
        """One sign step of the drawn patches up the loss that was just propagated; the old ones are replaced."""
        if pasted.patterns.grad is None:
            raise ValueError("the loss must be propagated to the pasted patterns before they can climb it")
        rows = pasted.rows
        rate = (RATE * 0.5 * (1 + torch.cos(torch.pi * self.age[rows] / LIFE))).clamp(min=LEAST_RATE)
        step = rate[:, None, None, None] * pasted.patterns.grad.sign()
        self.patterns[rows] = (self.patterns[rows] + step).clamp(0, 1)
        self.age[rows] += 1
        if len(old := rows[self.age[rows] >= LIFE]):
            self._renew(old, generator)

    def _renew(self, rows: Tensor, generator: torch.Generator) -> None:
        """Noise, binary noise or one shade, at a place where borders count more than their area."""
        n, (channels, side) = len(rows), self.patterns.shape[1:3]
        noise = torch.rand(n, channels, side, side, generator=generator)
        kind = torch.rand(n, 1, 1, 1, generator=generator)
        shade = torch.rand(n, channels, 1, 1, generator=generator).round().expand_as(noise)
        self.patterns[rows] = torch.where(kind < 0.25, shade, torch.where(kind < 0.6, noise.round(), noise))
        room = self.image_size - side
        for place in (self.top, self.left):
            drawn = torch.rand(n, generator=generator) * 1.5 - 0.25
            place[rows] = (drawn.clamp(0, 1) * room).round().long()
        self.age[rows] = 0

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, for a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "image_size"}


def new_bank(*, fraction: float, image_size: int, channels: int, classes: int, seed: int) -> PatchBank:
    """A bank of fresh patches, their ages spread so that they are not all replaced at once.

    Args:
        fraction: side of a patch as a fraction of the image's side, in (0, 0.5].
    """
    generator = torch.Generator().manual_seed(seed)
    side = max(2, round(fraction * image_size))
    bank = PatchBank(
        patterns=torch.zeros(SIZE, channels, side, side),
        classes=torch.arange(SIZE) % classes,
        top=torch.zeros(SIZE, dtype=torch.long),
        left=torch.zeros(SIZE, dtype=torch.long),
        age=torch.zeros(SIZE, dtype=torch.long),
        image_size=image_size,
    )
    bank._renew(torch.arange(SIZE), generator)
    bank.age = torch.randint(LIFE, (SIZE,), generator=generator)
    return bank
