"""I-BAU (Zeng 2022): minimax unlearning, min over weights of max over a universal perturbation, by implicit gradient.

The inner problem finds one perturbation δ, added to every image, that raises the loss most at a cost on its norm. The
weights then descend the loss under δ by its whole derivative: δ is the fixed point of the inner gradient step Φ(δ, θ),
so dδ/dθ = (I − ∂Φ/∂δ)⁻¹ ∂Φ/∂θ, and the inverse is a Neumann series, one more term an iteration (Algorithm 1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.backdoor.defences.common import GUARD, Labelled, Mitigated, batches, subset
from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.models.inference import accuracy_of
from tasks.params import Training

IMAGES = 1000
ROUNDS = 5
INNER_STEPS = 20
INNER_RATE = 0.05  # Adam's rate on the perturbation, in pixel units
COST = 0.01  # of the perturbation's squared L2 norm
RADIUS = 0.09  # largest L2 norm, as a fraction of the image's side: a white square of that side on black
STEP = 0.1  # of the inner gradient step whose fixed point is differentiated
ITERATIONS = 5
RATE_SCALE = 0.3  # of the other mitigations' rate: at the full one the student of the X-rays collapses to one class
PERTURBED = 0.5  # share of a batch that carries the perturbation when the weights descend


def i_bau(
    model: Classifier,
    train: Labelled,
    val: Labelled,
    training: Training,
    *,
    rounds: int = ROUNDS,
    images: int = IMAGES,
    cost: float = COST,
    radius: float = RADIUS,
    guard: float = GUARD,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Mitigated:
    """Unlearn universal perturbations in a copy of `model`; the original stays as it is.

    Args:
        training: its rate, batch size, weight decay and patches; a round passes once over the images.
        rounds: how often the perturbation is sought again.
        images: at most so many training images are used.
        cost: weight of the perturbation's squared norm in the inner problem.
        radius: largest L2 norm of the perturbation, as a fraction of the image's side.
        guard: balanced validation accuracy that it may cost: the last round within it is kept, or the model as it was
            where none is, for single rounds can throw the network off.

    Raises:
        GatehouseError: the loss is not finite.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(True)  # statistics stand still: the inner problem needs one net
    before, few = accuracy_of(copied, val), subset(train, images)
    weights = list(copied.parameters())
    optimiser = torch.optim.AdamW(weights, lr=RATE_SCALE * training.learning_rate, weight_decay=training.weight_decay)
    sizes, bound = [], radius * train[0].shape[-1]
    accuracies: list[float] = []
    kept, state = 0, {k: v.clone() for k, v in copied.state_dict().items()}
    for turn in range(rounds):
        delta = _worst_perturbation(copied, few, training, cost=cost, bound=bound, seed=seed + 31 * turn)
        sizes.append(round(float(delta.norm()), 4))
        for x, y in batches(few, training, epoch=turn, seed=seed):
            mixed = (torch.arange(len(y)) < PERTURBED * len(y)).view(-1, 1, 1, 1)

            def inner(d: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
                return cost * d.square().sum() - F.cross_entropy(copied(x + d), y)

            def outer(d: Tensor, x: Tensor = x, y: Tensor = y, mixed: Tensor = mixed) -> Tensor:
                return F.cross_entropy(copied(x + d * mixed), y)

            gradients = hypergradient(delta, weights, inner, outer, step=STEP, iterations=ITERATIONS)
            if not all(bool(torch.isfinite(g).all()) for g in gradients):
                raise GatehouseError(f"I-BAU diverged in round {turn}; lower backdoor.mitigation_learning_rate.")
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimiser.step()
        accuracies.append(accuracy_of(copied, val))
        if accuracies[-1] >= before - guard:
            kept, state = turn + 1, {k: v.clone() for k, v in copied.state_dict().items()}
        if progress:
            progress(turn + 1)
    copied.load_state_dict(state)
    return Mitigated(
        copied,
        {
            "did": f"unlearned universal perturbations in {kept} rounds over {len(few[1])} images",
            "rounds": kept,
            "accuracies": accuracies,
            "perturbation_norms": sizes,
            "accuracy_before": before,
            "accuracy_after": accuracy_of(copied, val),
        },
    )


def hypergradient(
    delta: Tensor,
    weights: Sequence[Tensor],
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    *,
    step: float,
    iterations: int,
) -> list[Tensor]:
    """Total derivative of outer(δ*(θ), θ) with respect to the weights θ, where δ* minimises inner(δ, θ).

    Args:
        delta: an (approximate) minimum of `inner`, any shape.
        weights: θ, which both functions depend on.
        step: of the gradient step Φ(δ) = δ − step · ∇inner(δ); Φ must contract for the series to converge.
        iterations: terms of the Neumann series; 0 leaves the direct derivative alone.
    """
    d = delta.detach().clone().requires_grad_(True)
    value = outer(d)
    by_delta, *direct = torch.autograd.grad(value, [d, *weights])
    if iterations == 0:
        return list(direct)
    moved = d - step * torch.autograd.grad(inner(d), d, create_graph=True)[0]
    v = by_delta
    for _ in range(iterations - 1):
        v = by_delta + torch.autograd.grad(moved, d, v, retain_graph=True)[0]
    indirect = torch.autograd.grad(moved, list(weights), v, allow_unused=True)
    return [a if b is None else a + b for a, b in zip(direct, indirect, strict=True)]


def _worst_perturbation(
    model: Classifier, few: Labelled, training: Training, *, cost: float, bound: float, seed: int
) -> Tensor:
    """The universal perturbation, shape (1, channels, side, side), after INNER_STEPS steps of Adam from zero."""
    delta = torch.zeros(1, *few[0].shape[1:], requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=INNER_RATE)
    done, epoch = 0, 0
    while done < INNER_STEPS:
        for x, y in batches(few, training, epoch=epoch, seed=seed):
            loss = cost * delta.square().sum() - F.cross_entropy(model(x + delta), y)
            (delta.grad,) = torch.autograd.grad(loss, delta)
            optimiser.step()
            with torch.no_grad():
                delta *= (bound / (delta.norm() + 1e-12)).clamp(max=1)
            done += 1
            if done == INNER_STEPS:
                break
        epoch += 1
    return delta.detach()
