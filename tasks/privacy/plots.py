"""The ROC of the membership attacks where it matters: at few false positives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.models.figures import figure
from tasks.privacy.scoring import AttackFigures


def roc_figure(path: Path, attacks: Sequence[AttackFigures]) -> None:
    """True against false positives on log axes (Carlini 2022, Figure 1); on the dotted line an attack only guesses."""
    least = 1 / max(a.n_non_members for a in attacks)
    with figure(path, width=5.2, height=4.4) as drawing:
        axis = drawing.subplots()
        axis.plot([least, 1], [least, 1], ":", color="0.4", label="guessing")
        for attack, style in zip(attacks, ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1))), strict=False):
            # A rate of 0 has no place on a log axis: it is drawn at half of one record.
            rates = [(max(f, least / 2), max(t, 0.5 / attack.n_members)) for f, t in attack.roc]
            name = attack.attack.replace("_", " ")
            axis.plot(*zip(*rates, strict=True), linestyle=style, label=f"{name} (AUC {attack.auc.value:.2f})")
        axis.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.05))
        axis.set(xlabel="false-positive rate", ylabel="true-positive rate", title="Membership inference")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=9, loc="lower right")
