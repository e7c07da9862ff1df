"""Figures of a training: learning curve, confusion matrix, reliability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tasks.files import writing
from tasks.models.training import Epoch


@contextmanager
def figure(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written to `path` as PNG when the block ends without an error; sizes in inches.

    It is kept small for reports that embed it: a palette of 128 colours takes a third of the bytes.
    """
    drawing = Figure(figsize=(width, height), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(drawing)
    yield drawing
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128)
    with writing(path) as temporary:
        picture.save(temporary, format="png", optimize=True)


def learning_curve(path: Path, history: Sequence[Epoch], *, best: int) -> None:
    """Training and validation loss, and validation accuracy, over epochs; the epoch that was kept is marked."""
    epochs = [e.epoch + 1 for e in history]
    with figure(path, width=6.4, height=3.4) as drawing:
        losses, accuracy = drawing.subplots(1, 2)
        losses.plot(epochs, [e.loss for e in history], "o-", label="training")
        losses.plot(epochs, [e.val_loss for e in history], "s--", label="validation")
        losses.set(xlabel="epoch", ylabel="cross-entropy", title="Loss")
        accuracy.plot(epochs, [e.val_accuracy for e in history], "s--", color="C1")
        accuracy.set(xlabel="epoch", ylabel="balanced accuracy", title="Validation accuracy")
        for axis in (losses, accuracy):
            axis.axvline(best + 1, color="0.4", linewidth=1, linestyle=":", label=f"kept: epoch {best + 1}")
            axis.grid(alpha=0.3)
            axis.xaxis.get_major_locator().set_params(integer=True)
        losses.legend(fontsize=8)


def confusion_matrix(path: Path, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Counts in cells, shaded by their share of the true class; `counts` has shape (classes, classes), rows true."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.75 * len(classes)
    with figure(path, width=side + 0.8, height=side) as drawing:
        axis = drawing.subplots()
        shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            dark = shares[row, column] > 0.5
            axis.text(column, row, f"{count}", ha="center", va="center", color="white" if dark else "black")
        axis.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
        axis.set_yticks(range(len(classes)), classes)
        axis.set(xlabel="predicted", ylabel="true", title="Test images")
        drawing.colorbar(shown, ax=axis, shrink=0.8, label="share of the true class")


def reliability(path: Path, probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 10) -> None:
    """Accuracy against confidence of the top class; a calibrated model lies on the diagonal.

    Args:
        probabilities: shape (n, classes).
        labels: true class indices, shape (n,).
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    used = [b for b in np.unique(bin_of) if (bin_of == b).sum() >= 5]  # fewer say nothing of a share
    with figure(path, width=4.4, height=3.8) as drawing:
        axis = drawing.subplots()
        axis.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":", label="calibrated")
        axis.plot(
            [confidence[bin_of == b].mean() for b in used],
            [right[bin_of == b].mean() for b in used],
            "o-",
            label="model",
        )
        for b in used:
            axis.annotate(
                f"{(bin_of == b).sum()}",
                (confidence[bin_of == b].mean(), right[bin_of == b].mean()),
                xytext=(4, -10),
                textcoords="offset points",
                fontsize=7,
            )
        axis.set(
            xlabel="confidence", ylabel="accuracy", title="Reliability (images a bin)", xlim=(0, 1.02), ylim=(0, 1.05)
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left")
