"""The one place that knows ART (adversarial-robustness-toolbox)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tasks.evasion.attacks.budget import REACH, within
from tasks.evasion.attacks.network import Attacked
from tasks.models.architectures import Classifier


def pgd(
    model: Classifier,
    x: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    seed: int,
    bfloat16: bool = False,
    batch: int = 32,
) -> Tensor:
    """Untargeted L-infinity projected gradient descent on the cross-entropy (Madry 2018), one random start.

    Args:
        model: the attacked model; ART is given a copy, since it changes modes and wraps what it is given.
        x: images in [0, 1], shape (n, channels, side, side).
        labels: true class indices, shape (n,).
        eps: budget in pixel units of [0, 1].
        seed: of the random start.
        bfloat16: gradients by autocast; measured, half the time at the same success.

    Returns:
        Changed images within the budget and [0, 1].
    """
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    if not len(x):
        return x.clone()
    classifier = PyTorchClassifier(
        Attacked(model, bfloat16=bfloat16),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=model.head.out_features,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        norm=np.inf,
        eps=eps,
        eps_step=REACH * eps / steps,
        max_iter=steps,
        num_random_init=1,
        batch_size=batch,
        verbose=False,
    )
    state = np.random.get_state()
    np.random.seed(seed % 2**32)  # ART draws its random start from NumPy's global generator
    try:
        changed = attack.generate(x.numpy(), np.eye(model.head.out_features, dtype=np.float32)[labels.numpy()])
    finally:
        np.random.set_state(state)
    return within(torch.from_numpy(changed), x, eps=eps)  # ART projects in float32 and may step over by rounding
