"""Training of a classifier under a freeze policy: deterministic for a seed, resumable at every epoch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.errors import GatehouseError
from tasks.models import resume
from tasks.models.architectures import Classifier, reinitialise
from tasks.models.augment import disturb
from tasks.models.checkpoints import digest
from tasks.models.freezing import freeze, train_mode
from tasks.models.inference import BATCH, as_float, logits
from tasks.models.n_fgsm import n_fgsm
from tasks.models.patch_bank import PatchBank, new_bank
from tasks.models.teacher_terms import Term, teacher_term
from tasks.params import FreezePolicy, Training

Images = np.ndarray  # uint8 (n, channels, side, side)
Labels = np.ndarray  # int64 (n,)
Progress = Callable[["Epoch"], None]
LOWER_RATE = "lower the learning rate in params.yaml"


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curve. `val_loss` and `val_accuracy` are measured after the epoch."""

    epoch: int
    loss: float
    val_loss: float
    val_accuracy: float
    images_per_second: float


def fit(
    model: Classifier,
    train: tuple[Images, Labels],
    val: tuple[Images, Labels],
    training: Training,
    *,
    policy: FreezePolicy,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[Epoch]:
    """Train in place and leave the model in evaluation mode with the weights of its best validation loss.

    Cosine schedule over all epochs; features train at `backbone_scale` times the head's rate; early stopping after
    `patience` epochs without a better validation loss. Frozen features are computed once where nothing augments the
    images. With `checkpoint`, the state is saved after every epoch and an interrupted call with the same inputs goes
    on from there to the same weights.

    Args:
        train, val: uint8 images, shape (n, channels, side, side), and int64 labels, shape (n,).

    Raises:
        GatehouseError: a split is empty, the loss is not finite, or frozen features would be fresh ones.
    """
    if not len(train[1]) or not len(val[1]):
        raise GatehouseError("Training needs at least one training and one validation image; check the data's splits.")
    key = _fingerprint(model, train, val, training, policy, seed) if checkpoint else ""
    term = teacher_term(model, training)
    frozen = freeze(model, policy)
    if training.fresh:
        if frozen:
            raise GatehouseError("A student from fresh weights trains them all: set student.freeze to `all`.")
        reinitialise(model, seed=seed)
    optimiser = _optimiser(model, training)
    history: list[Epoch] = []
    best = _copy(model)
    bank = _bank(training, train[0], model, seed)
    if checkpoint and (state := resume.load(checkpoint, key)):
        resume.restore(state, model, optimiser, bank)
        best, history = state.best, [Epoch(**e) for e in state.history]

    cached = _frozen_features(model, train[0], frozen, training)
    weights = class_weights(train[1], model.head.out_features) if training.class_weights else None
    for epoch in range(len(history), training.epochs):
        if history and epoch - _best_epoch(history) > training.patience:
            break
        started = time.perf_counter()
        loss = _epoch(model, optimiser, train, training, epoch, seed, frozen, cached, weights, bank, term)
        val_loss, val_accuracy = _validate(model, val, weights)
        if not np.isfinite(val_loss):
            raise GatehouseError(f"Training diverged in epoch {epoch} (validation loss {val_loss}); {LOWER_RATE}.")
        rate = len(train[1]) / (time.perf_counter() - started)
        history.append(Epoch(epoch, loss, val_loss, val_accuracy, round(rate, 1)))
        if _best_epoch(history) == epoch:
            best = _copy(model)
        if checkpoint:
            resume.save(checkpoint, key, model, optimiser, best, [asdict(e) for e in history], bank)
        if progress:
            progress(history[-1])
    model.load_state_dict(best)
    return history


def _epoch(
    model: Classifier,
    optimiser: torch.optim.Optimizer,
    train: tuple[Images, Labels],
    training: Training,
    epoch: int,
    seed: int,
    frozen: int,
    cached: Tensor | None,
    weights: Tensor | None,
    bank: PatchBank | None,
    term: Term | None,
) -> float:
    images, labels = train
    # One generator an epoch: what an epoch draws does not depend on whether the run was interrupted before it.
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(labels), generator=generator)
    batches = [b for b in order.split(training.batch_size) if len(b) > 1]  # BatchNorm needs two
    total, seen = 0.0, 0
    train_mode(model, frozen)

    def forward(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last) if first == 0 else x
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            if first < frozen:
                with torch.set_grad_enabled(x.requires_grad):  # to patches and pixels, through frozen blocks too
                    x = model.run_blocks(x, first, frozen)
                first = frozen
            if first < len(model.block_names):
                x = model.run_blocks(x, first)
            return x, model.head(x).float()

    for i, batch in enumerate(batches):
        _set_rate(optimiser, training, (epoch + i / len(batches)) / training.epochs)
        y = torch.from_numpy(labels[batch.numpy()])
        pasted = None
        if cached is not None:
            x, first = cached[batch], frozen
        else:
            x, first = as_float(images[batch.numpy()]), 0
            x, pasted = disturb(x, y, training, bank, generator)
            if training.adversarial_budget:
                x = n_fgsm(
                    lambda moved, rows, y=y: F.cross_entropy(forward(moved, 0)[1], y[rows], weight=weights),  # type: ignore[misc]
                    x,
                    eps=training.adversarial_budget,
                    share=training.adversarial_share,
                    generator=generator,
                )
        found, output = forward(x, first)
        loss = F.cross_entropy(output, y, weight=weights) + (term(x, found) if term else 0)
        if not bool(torch.isfinite(loss)):
            raise GatehouseError(f"Training diverged in epoch {epoch} (loss {loss.item()}); {LOWER_RATE}.")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if bank and pasted:
            bank.climb(pasted, generator)
        total, seen = total + loss.item() * len(y), seen + len(y)
    model.eval()
    return total / max(seen, 1)


def _frozen_features(model: Classifier, images: Images, frozen: int, training: Training) -> Tensor | None:
    """Activations after the frozen blocks for every training image, or None where images change from epoch to epoch."""
    if frozen == 0 or training.changes_images or training.neuron_distance or training.distillation:
        return None
    with torch.no_grad():
        parts = [model.run_blocks(as_float(images[i : i + BATCH]), 0, frozen) for i in range(0, len(images), BATCH)]
    return torch.cat(parts)


def _bank(training: Training, images: Images, model: Classifier, seed: int) -> PatchBank | None:
    if not training.patch_adversarial:
        return None
    return new_bank(
        fraction=training.patch_adversarial_fraction,
        image_size=images.shape[-1],
        channels=images.shape[1],
        classes=model.head.out_features,
        seed=seed,
    )


def class_weights(labels: Labels, classes: int) -> Tensor:
    """Weights inverse to class frequency with mean 1 over the images; a class that is absent gets weight 0."""
    counts = np.bincount(labels, minlength=classes).astype(float)
    weights = np.divide(len(labels), classes * counts, out=np.zeros(classes), where=counts > 0)
    return torch.tensor(weights, dtype=torch.float32)


def _optimiser(model: Classifier, training: Training) -> torch.optim.Optimizer:
    backbone = [p for p in model.blocks.parameters() if p.requires_grad]
    groups = [{"params": list(model.head.parameters()), "scale": 1.0}]
    if backbone:
        groups.append({"params": backbone, "scale": training.backbone_scale})
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay)


def _set_rate(optimiser: torch.optim.Optimizer, training: Training, done: float) -> None:
    """Cosine from the full rate to zero as `done` goes from 0 to 1, with a short linear start."""
    start = min(1.0, 0.1 + done * training.epochs * 2)
    for group in optimiser.param_groups:
        group["lr"] = training.learning_rate * group["scale"] * start * 0.5 * (1 + np.cos(np.pi * done))


def _validate(model: Classifier, val: tuple[Images, Labels], weights: Tensor | None) -> tuple[float, float]:
    """Cross-entropy weighted as in training, and accuracy averaged over classes.

    Both are so that imbalance does not hide a lost class, and so that the best epoch is best by what was minimised.
    """
    output, y = logits(model, val[0]), torch.from_numpy(val[1])
    right = output.argmax(1) == y
    recalls = [right[y == c].float().mean().item() for c in y.unique()]
    return F.cross_entropy(output, y, weight=weights).item(), float(np.mean(recalls))


def _best_epoch(history: list[Epoch]) -> int:
    return min(history, key=lambda e: (e.val_loss, e.epoch)).epoch


def _copy(model: Classifier) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def _fingerprint(
    model: Classifier,
    train: tuple[Images, Labels],
    val: tuple[Images, Labels],
    training: Training,
    policy: FreezePolicy,
    seed: int,
) -> str:
    """Everything that the result depends on; a checkpoint of anything else is not gone on from."""
    h = hashlib.sha256(digest(model).encode())
    for array in (*train, *val):
        h.update(f"{array.shape} {array.dtype}".encode())
        h.update(np.ascontiguousarray(array).data)
    h.update(f"{training.model_dump_json()} {policy!r} {seed}".encode())
    h.update(f"{torch.__version__} {torch.get_num_threads()}".encode())  # both decide how sums of floats round
    return h.hexdigest()
