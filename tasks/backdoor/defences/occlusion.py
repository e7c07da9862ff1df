"""A filter of inputs by occlusion: where covering one small place, and hardly any other, changes the answer.

A small trigger has its whole effect from its own place: covered, the answer falls back to the image's own class.
Evidence that is spread over an image survives the loss of any one place. SentiNet (Chou 2018) and Februus (Doan 2020)
look for the place by a saliency map; here every place of a grid is tried, and nothing is known of a trigger.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.backdoor.net import fast_logits
from tasks.models.architectures import Classifier
from tasks.models.inference import as_float, frozen_copy

OVERLAP = 2  # neighbouring covers of the grid lie side / OVERLAP apart: a trigger of half a cover lies whole under one
PIECE = 1024  # covered images in memory at once


def grid(size: int, side: int) -> list[int]:
    """Upper (or left) ends of the covers along one axis, from border to border."""
    step = max(1, side // OVERLAP)
    return sorted({*range(0, size - side, step), size - side})


def surroundings(x: Tensor, side: int) -> Tensor:
    """What a cover shows: at each pixel the mean over a window of three covers' side around it, shape of `x`."""
    window = 2 * side + 1
    return F.avg_pool2d(x, window, stride=1, padding=side, count_include_pad=False)


def covered_margins(model: Classifier, images: np.ndarray, *, side: int) -> tuple[Tensor, Tensor]:
    """(margins of the predicted class before, shape (n,); and with each place covered, shape (n, places)).

    A margin is the logit of the class predicted without a cover, minus the largest other one.

    Args:
        images: uint8 (n, channels, size, size).
        side: of the cover, in pixels; a trigger of up to about half of it is covered whole somewhere.
    """
    net, x = frozen_copy(model), as_float(images)
    size = x.shape[-1]
    starts = grid(size, side)
    line = torch.arange(size)
    inside = torch.stack([(line >= s) & (line < s + side) for s in starts])
    masks = (inside[:, None, :, None] & inside[None, :, None, :]).flatten(0, 1)[:, None]  # (places, 1, size, size)
    before = fast_logits(net, x)
    own = before.argmax(1)
    margins = []
    each = max(1, PIECE // len(masks))
    for i in range(0, len(x), each):
        piece, fill = x[i : i + each, None], surroundings(x[i : i + each], side)[:, None]
        answers = fast_logits(net, torch.where(masks, fill, piece).flatten(0, 1))
        margins.append(_margin(answers, own[i : i + each].repeat_interleave(len(masks))).view(-1, len(masks)))
    return _margin(before, own), torch.cat(margins)


def _margin(answers: Tensor, own: Tensor) -> Tensor:
    other = answers.scatter(1, own[:, None], float("-inf")).amax(1)
    return answers.gather(1, own[:, None])[:, 0] - other


def occlusion_scores(model: Classifier, images: np.ndarray, *, side: int) -> np.ndarray:
    """How much more covering the worst place costs the answer than covering a usual one; shape (n,), in logits.

    It is the median margin over all covered places minus the smallest one; high is suspicious.
    """
    _, covered = covered_margins(model, images, side=side)
    return (covered.median(1).values - covered.amin(1)).numpy()
