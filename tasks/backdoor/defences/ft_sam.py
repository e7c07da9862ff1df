"""FT-SAM (Zhu 2023): fine-tuning with sharpness-aware minimisation, which shrinks the norms of backdoored neurons.

Each step climbs first to the worst weights near the present ones, min over w of max over ‖T⁻¹ε‖₂ ≤ rho of
loss(w + ε), and descends by the gradient there. T scales the ball by each neuron's own norm, so that the large neurons
a backdoor leans on are moved furthest: ε = rho · T²g / ‖Tg‖₂, the maximum of the linearised loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.backdoor.defences.common import Labelled, Mitigated, batches
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.freezing import freeze, train_mode
from tasks.models.inference import accuracy_of
from tasks.models.training import class_weights
from tasks.params import FreezePolicy, Training

RHO = 1.0


def ft_sam(
    model: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    rho: float = RHO,
    policy: FreezePolicy = "all",
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Mitigated:
    """Fine-tune a copy of `model` with sharpness-aware steps; the original stays as it is.

    Args:
        rho: radius of the ball, in norms of neurons.
        policy: which features may change.

    Raises:
        GatehouseError: the loss is not finite.
    """
    copied = copy.deepcopy(model)
    before = accuracy_of(copied, val)
    frozen = freeze(copied, policy)
    weights = [p for p in copied.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=training.learning_rate, weight_decay=training.weight_decay)
    steps = training.epochs * sum(1 for _ in range(0, len(train[1]), training.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    balance = class_weights(train[1], copied.head.out_features) if training.class_weights else None

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            output = copied(x)
        return F.cross_entropy(output.float(), y, weight=balance)

    for epoch in range(training.epochs):
        train_mode(copied, frozen)
        for x, y in batches(train, training, epoch=epoch, seed=seed):
            value = loss(x, y)
            if not bool(torch.isfinite(value)):
                raise GatehouseError(f"FT-SAM diverged in epoch {epoch}; lower backdoor.mitigation_learning_rate.")
            sam_gradient(weights, value, lambda x=x, y=y: loss(x, y), rho=rho, quiet=copied)  # type: ignore[misc]
            optimiser.step()
            schedule.step()
        copied.eval()
        if progress:
            progress(epoch + 1)
    return Mitigated(
        copied.requires_grad_(True),
        {
            "did": f"trained {training.epochs} epochs with sharpness-aware steps of radius {rho:g}",
            "rho": rho,
            "accuracy_before": before,
            "accuracy_after": accuracy_of(copied, val),
        },
    )


def sam_gradient(
    weights: Sequence[Tensor], here: Tensor, loss: Callable[[], Tensor], *, rho: float, quiet: nn.Module | None = None
) -> None:
    """Leave in `.grad` the gradient at the worst nearby weights; the weights themselves end as they began.

    Args:
        here: the loss at the present weights, with its graph.
        loss: computes the loss of the same batch anew.
        quiet: a module whose BatchNorm statistics the second pass must not move.
    """
    climb = perturbation(weights, torch.autograd.grad(here, list(weights)), rho=rho)
    origin = [w.detach().clone() for w in weights]
    statistics = {k: v.clone() for k, v in quiet.named_buffers()} if quiet is not None else {}
    with torch.no_grad():
        for w, step in zip(weights, climb, strict=True):
            w.add_(step)
    there = torch.autograd.grad(loss(), list(weights))
    with torch.no_grad():
        for w, old, gradient in zip(weights, origin, there, strict=True):
            w.copy_(old)
            w.grad = gradient
        if quiet is not None:
            for name, buffer in quiet.named_buffers():
                buffer.copy_(statistics[name])


def perturbation(weights: Sequence[Tensor], gradients: Sequence[Tensor], *, rho: float) -> list[Tensor]:
    """rho · T²g / ‖Tg‖₂ over all weights together; T is the norm of the neuron that a weight belongs to.

    A neuron is a row of a weight of two or more dimensions; a single number (scale, shift) is its own neuron.
    """
    scales = [_neuron_norms(w) for w in weights]
    length = torch.stack([(t * g).square().sum() for t, g in zip(scales, gradients, strict=True)]).sum().sqrt()
    return [rho * t.square() * g / (length + 1e-12) for t, g in zip(scales, gradients, strict=True)]


def _neuron_norms(weight: Tensor) -> Tensor:
    own = weight.detach()
    return own.abs() if own.dim() < 2 else own.flatten(1).norm(dim=1).view(-1, *[1] * (own.dim() - 1))
