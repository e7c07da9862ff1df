"""Hundreds of small private networks at once: DP-SGD (Abadi 2016) on stacks of linear layers, in closed form.

A linear layer's gradient of one record is an outer product, so its norm needs no gradient: ‖g‖² = Σ ‖δ‖² (‖a‖² + 1)
over the layers, where a is the layer's input, δ the loss's derivative by its output, and 1 the bias (Goodfellow 2015).
So records are clipped exactly without a copy of the weights each, and many networks are one batched matrix product.

Every network draws its own Poisson batches and its own noise, so that what is said of one holds whatever the others do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm as norms

from tasks.errors import GatehouseError

ROOM = 8.0  # standard deviations of a batch's size that are kept room for; a larger batch is an error


@dataclass(frozen=True)
class Walks:
    """What sets the networks apart, each of shape (networks,); `noise` is a multiple of `clip`, 0 for none."""

    clip: np.ndarray
    noise: np.ndarray
    learning_rate: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.clip) == len(self.noise) == len(self.learning_rate) > 0:
            raise GatehouseError("Clipping norms, noise and learning rates must be given for the same networks.")
        if not (np.all(self.clip > 0) and np.all(self.noise >= 0) and np.all(self.learning_rate > 0)):
            raise GatehouseError("Clipping norms and learning rates must be above 0, and noise at least 0.")


@dataclass(frozen=True)
class Stacks:
    """Networks of linear layers with ReLU between them. Layer i maps as x · weights[i] + biases[i]."""

    weights: tuple[Tensor, ...]  # each (networks, inputs, outputs)
    biases: tuple[Tensor, ...]  # each (networks, 1, outputs)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of every network for records of shape (n, width) or (networks, n, width); (networks, n, classes)."""
        own = x.expand(len(self.weights[0]), *x.shape[-2:])
        return _activations(own, self.weights, self.biases)[-1]


def train_stacks(
    x: Tensor,
    y: Tensor,
    walks: Walks,
    *,
    classes: int,
    hidden: Sequence[int] = (),
    sample_rate: float,
    steps: int,
    included: np.ndarray | None = None,
    optimiser: Literal["sgd", "adam"] = "sgd",
    momentum: float = 0.0,
    average: bool = True,
    diverged: Literal["error", "zero"] = "error",
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Stacks:
    """Train one network a row of `walks` by DP-SGD.

    Args:
        x: float32 records, shape (n, width).
        y: int64 class indices, shape (n,).
        hidden: widths of the hidden layers.
        sample_rate: probability of each record to be in a batch, in (0, 1].
        included: bool (networks, n), the records that each network learns from; all where None.
        optimiser: what walks on the noisy mean gradients; `momentum` is of SGD alone.
        average: give the mean of the weights over the second half of the steps, which is free post-processing.
        diverged: what becomes of a network whose weights are no longer finite: an error for all, or zero weights.
        seed: of initialisation, batches and noise; the guarantee holds against those who do not know it.

    Raises:
        GatehouseError: a sample rate outside (0, 1], a network without records, or weights that are no longer finite.
    """
    count = len(walks.clip)
    if not 0 < sample_rate <= 1:
        raise GatehouseError(f"The sample rate must lie in (0, 1], not {sample_rate:g}.")
    sizes = np.full(count, len(y)) if included is None else included.sum(1)
    if not (sizes > 0).all():
        raise GatehouseError("A private network would learn from no record.")
    # The records of each network, in front of those that it leaves out: batches are drawn among the former alone.
    own = None if included is None else torch.from_numpy(np.argsort(~included, axis=1, kind="stable"))
    generator, draws = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    weights, biases = _start(count, (x.shape[1], *hidden, classes), generator)
    parameters = [*weights, *biases]
    clip, noise, rate = (torch.from_numpy(np.asarray(v, np.float32)).view(-1, 1, 1) for v in vars(walks).values())
    deviation = noise * clip
    expected = torch.from_numpy((sizes * sample_rate).astype(np.float32)).view(-1, 1, 1)
    walk = _adam(parameters, rate) if optimiser == "adam" else _sgd(parameters, rate, momentum)
    mean, averaged = [torch.zeros_like(p) for p in parameters], 0
    for step in range(steps):
        batch, present = (torch.from_numpy(v) for v in poisson_batches(sizes, sample_rate, draws))
        batch = batch if own is None else own.gather(1, batch)
        summed = clipped_sums(x[batch], y[batch], present, weights, biases, clip=clip.flatten())
        for total in summed:
            total.addcmul_(deviation, torch.randn(total.shape, generator=generator)).div_(expected)
        walk(summed)
        if average and step >= steps // 2:
            averaged += 1
            for m, p in zip(mean, parameters, strict=True):
                m.lerp_(p, 1 / averaged)
        if progress:
            progress(step + 1, steps)
    final = mean if averaged else parameters
    finite = torch.stack([torch.isfinite(p).flatten(1).all(1) for p in final]).all(0).view(-1, 1, 1)
    if diverged == "error" and not bool(finite.all()):
        raise GatehouseError("Private training diverged; lower the learning rate.")
    final = [torch.where(finite, p, 0.0) for p in final]
    return Stacks(tuple(final[: len(weights)]), tuple(final[len(weights) :]))


def _sgd(parameters: Sequence[Tensor], rate: Tensor, momentum: float) -> Callable[[Sequence[Tensor]], None]:
    velocity = [torch.zeros_like(p) for p in parameters]

    def step(gradients: Sequence[Tensor]) -> None:
        for p, v, g in zip(parameters, velocity, gradients, strict=True):
            v.mul_(momentum).add_(g)
            p.addcmul_(rate, v, value=-1)

    return step


def _adam(parameters: Sequence[Tensor], rate: Tensor) -> Callable[[Sequence[Tensor]], None]:
    """Adam (Kingma and Ba 2015) with its usual constants."""
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    steps = 0

    def step(gradients: Sequence[Tensor]) -> None:
        nonlocal steps
        steps += 1
        for p, m, v, g in zip(parameters, first, second, gradients, strict=True):
            m.lerp_(g, 1 - 0.9)
            v.mul_(0.999).addcmul_(g, g, value=1 - 0.999)
            deviation = (v / (1 - 0.999**steps)).sqrt_().add_(1e-8)
            p.addcmul_(rate, m / (1 - 0.9**steps) / deviation, value=-1)

    return step


def poisson_batches(
    records: np.ndarray, sample_rate: float, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One Poisson batch for each network, which has so many `records`, shape (networks,).

    The gap to the next record drawn is geometric, so a batch costs its own size, whatever the number of records.

    Returns:
        Rows (networks, room), and bool, which of them were drawn.
    """
    most = int(records.max())
    mean = most * sample_rate
    room = min(int(mean + ROOM * np.sqrt(mean * (1 - sample_rate)) + ROOM) + 1, most + 1)
    rows = draws.geometric(sample_rate, (len(records), room)).cumsum(1) - 1
    drawn = rows < records[:, None]
    if room <= most and drawn[:, -1].any():
        raise GatehouseError("A Poisson batch was larger than what room was kept for; use another seed.")
    used = max(int(drawn.sum(1).max()), 1)  # those drawn come first
    return np.where(drawn, rows, 0)[:, :used], drawn[:, :used]


def clipped_sums(
    x: Tensor, y: Tensor, present: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, clip: Tensor
) -> list[Tensor]:
    """Sum over a batch of each record's gradient of the cross-entropy, scaled to norm at most `clip`.

    Args:
        x, y, present: (networks, batch, width), (networks, batch), and bool: absent records add nothing.
        clip: (networks,).

    Returns:
        One tensor a weight, then one a bias, of their shapes.
    """
    inputs = _activations(x, weights, biases)
    probability = torch.softmax(inputs.pop(), 2)
    deltas = [probability.scatter_add_(2, y.unsqueeze(2), torch.full((*y.shape, 1), -1.0))]
    for layer in range(len(weights) - 1, 0, -1):
        deltas.append(torch.bmm(deltas[-1], weights[layer].transpose(1, 2)) * (inputs[layer] > 0))
    deltas.reverse()
    squares = torch.zeros_like(present, dtype=x.dtype)
    for a, d in zip(inputs, deltas, strict=True):
        squares += norms(d, dim=2).square_() * norms(a, dim=2).square_().add_(1)
    scale = (clip.view(-1, 1) / squares.sqrt_().clamp_(min=1e-12)).clamp_(max=1.0) * present
    scaled = [d.mul_(scale.unsqueeze(2)) for d in deltas]
    return [
        *(torch.bmm(a.transpose(1, 2), d) for a, d in zip(inputs, scaled, strict=True)),
        *(d.sum(1, keepdim=True) for d in scaled),
    ]


def _activations(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """The input of every layer, and the logits."""
    out = [x]
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        z = torch.baddbmm(b, out[-1], w)
        out.append(z if i == len(weights) - 1 else torch.relu(z))
    return out


def _start(count: int, widths: Sequence[int], generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """He's initialisation before a ReLU; zeros for the last layer, as a linear head alone starts too."""
    weights = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        scale = 0.0 if i == len(widths) - 2 and i == 0 else (2 / inputs) ** 0.5
        weights.append(torch.randn(count, inputs, outputs, generator=generator) * scale)
    return weights, [torch.zeros(count, 1, outputs) for outputs in widths[1:]]
