"""Auto-PGD (Croce and Hein 2020): projected gradient ascent that halves its own step where it stops climbing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.evasion.attacks.budget import within
from tasks.evasion.attacks.losses import cross_entropy, margin_past_refusal, targeted_dlr
from tasks.evasion.attacks.network import Attacked
from tasks.models.architectures import Classifier

MOMENTUM = 0.75
ENOUGH = 0.75  # share of steps since the last check that have to climb, or the step is halved
FIRST_CHECK, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # of all steps: the first stretch, and how stretches shrink
REFUSES_NEVER = -1  # no class
TARGETS = 9  # wrong classes that the targeted attack tries, the likeliest first

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, rows of the batch) -> (n,)


def apgd_ce(
    model: Classifier, x: Tensor, labels: Tensor, *, eps: float, steps: int, restarts: int = 1, seed: int,
    until_fooled: bool = True, null: int | None = None, bfloat16: bool = False, batch: int = 32,
) -> Tensor:  # fmt: skip
    """Untargeted, on the cross-entropy; past a refusal, on the margin that leaves it behind too.

    Args:
        x: images in [0, 1], shape (n, channels, side, side).
        labels: true class indices, shape (n,).
        eps: L-infinity budget in pixel units of [0, 1].
        steps: gradient steps a restart; images that are fooled take no more.
        restarts: random starts for the images that are not fooled yet.
        until_fooled: images that are fooled stop there; otherwise all go on to the largest loss, as a transfer needs.
        null: class whose answer is a refusal and fools nobody; none by default.
        batch: images at a time; 32 fit a small machine's cache.

    Returns:
        Changed images within the budget: the first that fooled the model, otherwise the one of largest loss.
    """
    net, generator = Attacked(model, bfloat16=bfloat16), torch.Generator().manual_seed(seed)

    def attack(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        out, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool)

        def loss(z: Tensor, rows: Tensor) -> Tensor:
            own = labels[rows]
            return cross_entropy(z, own) if null is None else margin_past_refusal(z, own, null)

        for _ in range(restarts):
            _again(
                net, x, labels, out, fooled, loss, eps, steps, generator, until_fooled=until_fooled, null=null,
            )  # fmt: skip
        return out, fooled

    return _in_batches(attack, x, labels, batch)


def apgd_targeted(
    model: Classifier, x: Tensor, labels: Tensor, *, eps: float, steps: int, seed: int, bfloat16: bool = False,
    batch: int = 32,
) -> Tensor:  # fmt: skip
    """One run on the targeted logit ratio for each of the TARGETS likeliest wrong classes; arguments as `apgd_ce`."""
    net, generator = Attacked(model, bfloat16=bfloat16), torch.Generator().manual_seed(seed)

    def attack(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        out, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool)
        with torch.no_grad():
            order = net(x).scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
        for k in range(min(TARGETS, order.shape[1] - 1)):
            aim = order[:, k]
            _again(
                net, x, labels, out, fooled, lambda z, rows, aim=aim: targeted_dlr(z, labels[rows], aim[rows]),  # type: ignore[misc]
                eps, steps, generator,
            )  # fmt: skip
        return out, fooled

    return _in_batches(attack, x, labels, batch)


def _in_batches(
    attack: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, labels: Tensor, batch: int
) -> Tensor:
    parts = [attack(a, b)[0] for a, b in zip(x.split(batch), labels.split(batch), strict=True)] if len(x) else []
    return torch.cat(parts) if parts else x.clone()


def _again(
    net: Attacked, x: Tensor, labels: Tensor, out: Tensor, fooled: Tensor, loss: Loss, eps: float, steps: int,
    generator: torch.Generator, *, until_fooled: bool = True, null: int | None = None,
) -> None:  # fmt: skip
    """One random start for the images that are not fooled; their rows of `out` and `fooled` are written."""
    rows = (~fooled).nonzero().squeeze(1)
    start = within(x + eps * (2 * torch.rand(x.shape, generator=generator) - 1), x, eps=eps)
    if len(rows):
        out[rows], fooled[rows] = _ascend(
            net, x[rows], labels[rows], start[rows], rows, loss, eps, steps, until_fooled=until_fooled, null=null
        )


def _ascend(
    net: Attacked, x: Tensor, labels: Tensor, start: Tensor, rows: Tensor, loss: Loss, eps: float, steps: int, *,
    until_fooled: bool, null: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Algorithm 1 of the paper. Rows that are fooled leave the batch, so that each step costs what is left to do."""
    out, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool)

    def look(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = images.detach().requires_grad_(True)
        answers = net(images)
        values = loss(answers, rows[left])
        (gradient,) = torch.autograd.grad(values.sum(), images)
        said = answers.detach().argmax(1)
        wrong = (said != labels[left]) & (said != (REFUSES_NEVER if null is None else null))
        return values.detach(), gradient, wrong if until_fooled else torch.zeros_like(wrong)

    left = torch.arange(len(x))
    current = previous = best = start
    value, gradient, wrong = look(current)
    state = _State(current, previous, best, gradient, gradient, value, value, value)
    stretch, since, shrinking = max(1, round(FIRST_CHECK * steps)), 0, max(1, round(SHORTEST * steps))
    rises, halved = torch.zeros(len(x)), torch.ones(len(x), dtype=torch.bool)
    length = torch.full((len(x), 1, 1, 1), 2 * eps)
    for step in range(steps + 1):
        if wrong.any():
            done = left[wrong]
            out[done], fooled[done] = state.current[wrong], True
            keep = ~wrong
            left, state = left[keep], state.of(keep)
            rises, halved, length = rises[keep], halved[keep], length[keep]
        if step == steps or not len(left):
            break
        inside = x[left]
        ahead = within(state.current + length * state.gradient.sign(), inside, eps=eps)
        pull = 1.0 if step == 0 else MOMENTUM
        moved = state.current + pull * (ahead - state.current) + (1 - pull) * (state.current - state.previous)
        moved = within(moved, inside, eps=eps)
        value, gradient, wrong = look(moved)
        rises += value > state.value
        state = state.moved(moved, value, gradient)
        since += 1
        if since == stretch:
            stuck = (rises < ENOUGH * since) | (~halved & (state.best_value <= state.best_before))
            length = torch.where(stuck.view(-1, 1, 1, 1), length / 2, length)
            state = state.returned(stuck)
            rises, halved, since = torch.zeros_like(rises), stuck, 0
            stretch = max(stretch - max(1, round(SHORTER * steps)), shrinking)
    out[left] = state.best
    return out, fooled


class _State:
    """Where each image stands, where it stood, and its best so far with the gradient there."""

    def __init__(
        self, current: Tensor, previous: Tensor, best: Tensor, gradient: Tensor, best_gradient: Tensor, value: Tensor,
        best_value: Tensor, best_before: Tensor,
    ) -> None:  # fmt: skip
        self.current, self.previous, self.best = current, previous, best
        self.gradient, self.best_gradient = gradient, best_gradient
        self.value, self.best_value, self.best_before = value, best_value, best_before

    def of(self, keep: Tensor) -> _State:
        return _State(*(t[keep] for t in vars(self).values()))

    def moved(self, to: Tensor, value: Tensor, gradient: Tensor) -> _State:
        better = value > self.best_value
        wide = better.view(-1, 1, 1, 1)
        return _State(
            to, self.current, torch.where(wide, to, self.best), gradient,
            torch.where(wide, gradient, self.best_gradient), value, torch.where(better, value, self.best_value),
            self.best_before,
        )  # fmt: skip

    def returned(self, stuck: Tensor) -> _State:
        """Stuck images go on from their best."""
        wide = stuck.view(-1, 1, 1, 1)
        return _State(
            torch.where(wide, self.best, self.current), self.previous, self.best,
            torch.where(wide, self.best_gradient, self.gradient), self.best_gradient,
            torch.where(stuck, self.best_value, self.value), self.best_value, self.best_value,
        )  # fmt: skip
