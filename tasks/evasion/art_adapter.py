"""The one place that knows ART (adversarial-robustness-toolbox)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tasks.evasion.attacks.network import Attacked
from tasks.evasion.attacks.square import Queried
from tasks.models.architectures import Classifier
from tasks.models.inference import logits

FIRST_EVALUATIONS = 10  # of a gradient's estimate; later ones take more
ITERATION = 8  # queries an iteration beside the estimate: steps and bisection


def hop_skip_jump(model: Classifier, x: Tensor, labels: Tensor, starts: Tensor, *, queries: int, seed: int) -> Queried:
    """HopSkipJump (Chen 2020) by ART: labels alone, the smallest L-infinity change that it finds within the queries.

    Args:
        model: ART is given a copy, since it changes modes and wraps what it is given.
        x: images in [0, 1], shape (n, channels, side, side).
        labels: true class indices, shape (n,).
        starts: a picture for each image that the model answers with another class, shape as `x`; the search goes from
            there towards the image.
        queries: at about so many an image; iterations are planned to end there.

    Returns:
        Images at whatever distance they are found: the caller looks which lie within a budget.
    """
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import PyTorchClassifier

    classes = model.head.out_features
    net = _Counted(Attacked(model, bfloat16=False))
    classifier = PyTorchClassifier(
        net, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=classes, clip_values=(0.0, 1.0),
        device_type="cpu",
    )  # fmt: skip
    attack = HopSkipJump(
        classifier, norm=np.inf, max_iter=_iterations(queries), init_eval=FIRST_EVALUATIONS,
        batch_size=64, verbose=False,
    )  # fmt: skip
    state = np.random.get_state()
    np.random.seed(seed % 2**32)  # ART draws from NumPy's global generator
    images, counts = [], []
    try:
        true = np.eye(classes, dtype=np.float32)[labels.numpy()]
        for one, label, start in zip(x.numpy(), true, starts.numpy(), strict=True):
            net.asked = 0
            images.append(torch.from_numpy(attack.generate(one[None], label[None], x_adv_init=start[None])))
            counts.append(net.asked)
    finally:
        np.random.set_state(state)
    changed = torch.cat(images) if images else x.clone()
    return Queried(changed, logits(model, changed).argmax(1) != labels, torch.tensor(counts, dtype=torch.int64))


class _Counted(nn.Module):
    """Answers in float32, as ART sometimes asks in float64, and counts the images that it was asked for."""

    def __init__(self, net: Attacked) -> None:
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.net(x.float())


def _iterations(queries: int) -> int:
    """As many as fit: the i-th estimates a gradient from FIRST_EVALUATIONS · √i answers."""
    spent, i = 0, 0
    while spent < queries:
        i += 1
        spent += round(FIRST_EVALUATIONS * i**0.5) + ITERATION
    return max(1, i - 1)
