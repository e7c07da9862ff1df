"""Figures of the backdoor gate: the worst patches, what transfers, and how the run-time filter sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.backdoor.search import Found
from tasks.backdoor.triggers import Trigger
from tasks.models.architectures import Classifier
from tasks.models.figures import figure
from tasks.models.inference import logits


def worst_patches(
    path: Path, model: Classifier, found: Found, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> None:
    """For every class, one image of another class before and after the patch that steers it there most often.

    An image that the patch moves is shown where there is one; the titles tell what the model answers.
    """
    before = logits(model, images).argmax(1).numpy()
    with figure(path, width=2.1 * len(classes) + 0.4, height=4.9) as drawing:
        axes = drawing.subplots(2, len(classes), squeeze=False)
        for c, patch in enumerate(found.patches):
            triggered = patch.trigger.apply_uint8(images)
            after = logits(model, triggered).argmax(1).numpy()
            others = (labels != c) & (before == labels)
            order = np.lexsort((np.arange(len(labels)), ~(others & (after == c)), ~others))
            row = int(order[0])
            for axis, picture, said in (
                (axes[0, c], images[row], before[row]),
                (axes[1, c], triggered[row], after[row]),
            ):
                shown = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
                axis.imshow(shown, cmap="gray" if len(picture) == 1 else None, vmin=0, vmax=255)
                axis.set(xticks=[], yticks=[], xlabel=f"answer: {classes[said]}")
            axes[0, c].set_title(f"true: {classes[int(labels[row])]}", fontsize=9)
            axes[1, c].set_title(
                f"{patch.pattern}, {patch.place}\nto {classes[c]}: {found.patch.by_class[c]:+.2f}", fontsize=9
            )
        drawing.suptitle("Worst patch found for each class (held-out control)", fontsize=10)


def planted_and_recovered(path: Path, image: np.ndarray, pairs: Mapping[str, tuple[Trigger, Trigger]]) -> None:
    """For every canary's student one uint8 image with the trigger planted, and with the patch that was found."""
    with figure(path, width=2.2 * len(pairs) + 0.6, height=4.8) as drawing:
        axes = drawing.subplots(2, len(pairs), squeeze=False)
        for column, (name, triggers) in enumerate(pairs.items()):
            for axis, trigger, said in zip(axes[:, column], triggers, ("planted", "recovered"), strict=True):
                picture = trigger.apply_uint8(image[None])[0]
                shown = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
                axis.imshow(shown, cmap="gray" if len(picture) == 1 else None, vmin=0, vmax=255)
                axis.set(xticks=[], yticks=[], xlabel=said)
            axes[0, column].set_title(name, fontsize=9)
        drawing.suptitle("Triggers planted, and what the search found without them", fontsize=10)


def scores(
    path: Path, groups: Mapping[str, Sequence[float]], *, candidate: float, threshold: float, label: str, title: str
) -> None:
    """A score of models of known truth, a row a group, with the candidate and the threshold marked."""
    with figure(path, width=6.4, height=0.55 * len(groups) + 1.7) as drawing:
        axis = drawing.subplots()
        for row, values in enumerate(groups.values()):
            axis.scatter(values, [row] * len(values), s=42, alpha=0.8, color=f"C{row}")
        axis.axvline(candidate, color="black", linewidth=1.5, label="candidate")
        axis.axvline(threshold, color="0.4", linestyle="--", linewidth=1, label="threshold")
        axis.set_yticks(range(len(groups)), list(groups))
        axis.set(xlim=(-0.05, 1.05), ylim=(len(groups) - 0.5, -0.5), xlabel=label)
        axis.legend(fontsize=8, loc="upper right")
        axis.set_title(title, fontsize=10)


def roc(path: Path, curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], *, false_refusals: float) -> None:
    """ROC curves of the run-time filters, a panel a canary's student: (clean refused, triggered refused) points."""
    with figure(path, width=3.6 * len(curves) + 0.6, height=3.9) as drawing:
        axes = drawing.subplots(1, len(curves), squeeze=False, sharey=True)[0]
        for axis, (canary, filters) in zip(axes, curves.items(), strict=True):
            for name, points in filters.items():
                axis.plot(*np.array(points).T, marker=".", linewidth=1.4, label=name)
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
            axis.axvline(false_refusals, color="0.4", linestyle="--", linewidth=1, label="allowed")
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="clean inputs refused")
            axis.set_title(canary, fontsize=9)
        axes[0].set_ylabel("triggered inputs refused")
        axes[-1].legend(fontsize=8, loc="lower right")
        drawing.suptitle("Run-time filters on living canaries", fontsize=10)


def transfer(
    path: Path, canaries: Sequence[str], columns: Sequence[str], control: np.ndarray, accuracy: np.ndarray
) -> None:
    """Heat map of what survives of each canary's backdoor; `control` and `accuracy` have shape (canaries, columns)."""
    with figure(path, width=1.5 * len(columns) + 2.2, height=0.75 * len(canaries) + 1.7) as drawing:
        axis = drawing.subplots()
        shown = axis.imshow(control, cmap="Reds", vmin=0, vmax=1, aspect="auto")
        for (r, c), value in np.ndenumerate(control):
            text = "–" if np.isnan(value) else f"{value:.2f}\nacc. {accuracy[r, c]:.2f}"
            axis.text(c, r, text, ha="center", va="center", fontsize=8, color="white" if value > 0.55 else "black")
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(canaries)), canaries)
        axis.set(xlabel="trainable features of the student", ylabel="canary")
        axis.set_title("Control that the planted trigger keeps", fontsize=10)
        drawing.colorbar(shown, ax=axis, label="trigger control")


def entropy_histograms(
    path: Path, entropies: dict[str, dict[str, np.ndarray]], threshold: float, *, alpha: float
) -> None:
    """STRIP's entropies by model (a panel each) and kind of input; the first model's threshold is marked."""
    top = max(float(values.max()) for groups in entropies.values() for values in groups.values())
    bins = np.linspace(0, max(top, threshold, 1e-3), 22)
    with figure(path, width=6.2, height=0.6 + 1.75 * len(entropies)) as drawing:
        axes = drawing.subplots(len(entropies), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (model, groups) in zip(axes, entropies.items(), strict=True):
            for i, (name, values) in enumerate(groups.items()):
                shares = np.full(len(values), 1 / len(values))
                color = "0.35" if name == "clean" else f"C{i}"
                axis.hist(values, bins=list(bins), weights=shares, histtype="stepfilled" if i == 0 else "step",
                          alpha=0.5 if i == 0 else 1, linewidth=1.6, color=color, label=name)  # fmt: skip
            axis.set(ylabel="share of inputs", ylim=(0, 1))
            axis.set_title(model, fontsize=9)
        axes[0].axvline(threshold, color="black", linestyle="--", linewidth=1, label="refused below")
        axes[-1].set_xlabel("mean entropy over classes (nats)")
        for axis in axes:
            axis.legend(fontsize=7)
        drawing.suptitle(f"STRIP, blend weight {alpha:g}", fontsize=10)
