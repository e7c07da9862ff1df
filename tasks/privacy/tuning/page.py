"""A tuning as one offline page for whoever has to decide: what to set, what it proves, what it leaks, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.privacy.attack import right_in_100
from tasks.promotion.dossier.blocks import Block, figures, table, text
from tasks.promotion.dossier.reports import embedded
from tasks.promotion.dossier.templates import fill_template
from tasks.promotion.dossier.words import ATTACKS, figure, measured, number

GOALS = {
    "epsilon": "ε of at most {:g}",
    "advantage": "membership advantage of any attack of at most {:g}, proven",
    "utility_loss": "loss of AUC of at most {:g}",
    "trade_off": "trade-off t = {:g} between utility and privacy (study, 6.2.4)",
}
LEFT_OUT = (
    "ε covers one record, not a person with several, and neither the encoding of the columns (ranks, categories) nor "
    "the number of records.",
    "The records for selection and report are not protected: their figures are published here as they are.",
    "ε above is that of the one model that is trained anew with this setting. Whoever publishes what the search saw, "
    "this page included, has spent the larger figure.",
    "Attacks bound the risk from below: another one may do better, up to the proven ceiling.",
)


def render(report: Mapping[str, Any], picture: Path) -> str:
    """The page as HTML that loads nothing.

    Args:
        report: `Suggestion.as_json`, with "source", "label", "features", "search", "hidden", "seed" and "minutes".
        picture: of the front, see `figures.front_figure`.
    """
    return fill_template(
        "tuning.html.j2",
        {
            "title": f"Private training of {report['label']!r} in {report['source']}",
            "verdict": _verdict(report),
            "chapters": [
                {"id": "means", "title": "What this means", "blocks": _means(report)},
                {"id": "front", "title": "Other choices", "blocks": _front(report, picture)},
                {"id": "attacks", "title": "What attacks find", "blocks": _attacks(report)},
                {"id": "search", "title": "How it was found", "blocks": _search(report)},
                {"id": "limits", "title": "What is not covered", "blocks": [text(words) for words in LEFT_OUT]},
            ],
        },
    )


def _verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    own, goal = report["suggestion"], report["goal"]
    setting, met = own["setting"], not report["note"]
    wanted = GOALS[goal["name"]].format(goal["value"])
    why = f"Asked for: {wanted}. " + ("" if met else f"This cannot be met: {report['note']}. The nearest is shown. ")
    lost = report["baseline"]["report_auc"] - report["report"]["auc"]
    why += (
        f"It proves ε = {own['epsilon']:.3g} at δ = {report['delta']:.2g} and keeps an AUC of "
        f"{report['report']['auc']:.3f} on records that nothing was chosen on, {abs(lost):.3f} "
        f"{'less' if lost > 0 else 'more'} than without privacy."
    )
    return {
        "word": "Suggestion" if met else "Nearest to the goal",
        "state": "passed" if met else "inconclusive",
        "why": why,
        "facts": [
            ("Clipping norm", number(setting["clip"])),
            ("Noise multiplier", number(setting["noise"])),
            ("Batch size (Poisson, expected)", number(setting["batch_size"])),
            ("Epochs", number(setting["epochs"])),
            ("Learning rate (SGD, momentum 0.9)", number(setting["learning_rate"])),
            ("Hidden layers", ", ".join(map(str, report["hidden"])) or "none"),
        ],
    }


def _means(report: Mapping[str, Any]) -> list[Block]:
    own, base, after = report["suggestion"], report["baseline"], report["report"]
    plain, private = base["attacks"][0], report["attacks"][0]
    ceiling = own["advantage_ceiling"]
    words = (
        "Whoever must say whether one given person was among the training records, where half of those asked about "
        "were, is right 50 times in 100 by guessing, "
        f"{right_in_100(private['membership_advantage']['value'])} times with the strongest attack measured here, and "
        f"at most {right_in_100(ceiling)} times with any attack whatsoever, which is proven."
    )
    floor = report["floor"]
    rows = [
        ["AUC", f"{base['report_auc']:.3f} ± {base['sd']:.3f}", f"{after['auc']:.3f} ± {after['sd']:.3f}"],
        [
            "Membership advantage, measured",
            measured(plain["membership_advantage"]),
            measured(private["membership_advantage"]),
        ],
        ["Membership advantage, at most (proven)", "1", number(ceiling)],
        ["ε, at least (audit)", "–", number(floor["epsilon"])],
        ["ε, at most (proven)", "no bound", number(own["epsilon"])],
    ]
    audit = (
        f"The audit trained {floor['networks']} networks with {floor['canaries']} wrongly labelled records, each in or "
        f"out by the toss of a coin, and guessed {floor['right']} of {floor['guessed']} coins rightly: that proves an "
        f"ε of at least {number(floor['epsilon'])} (Steinke 2023, 95 % confidence)."
    )
    head = ["", "Without privacy", "Suggestion"]
    caption = f"Beside training without privacy; {after['seeds']} trainings from fresh seeds"
    return [text(words), table(caption, head, rows, numeric=(1, 2)), text(audit)]


def _front(report: Mapping[str, Any], picture: Path) -> list[Block]:
    rows = [
        [
            number(p["epsilon"]),
            number(p["utility"]),
            measured(p["advantage"]),
            number(p["advantage_ceiling"]),
            *(number(p["setting"][k]) for k in ("clip", "noise", "batch_size", "epochs", "learning_rate")),
        ]
        for p in report["front"]
    ]
    head = [
        "ε", "AUC (selection)", "Advantage, measured", "Advantage, at most", "Clipping", "Noise", "Batch", "Epochs",
        "Learning rate",
    ]  # fmt: skip
    return [
        figures([embedded(picture, "Utility and risk of the best setting at each ε; the suggestion is marked")]),
        table("Settings that no other beats in AUC at no larger ε", head, rows, numeric=range(len(head))),
    ]


def _attacks(report: Mapping[str, Any]) -> list[Block]:
    out = []
    for title, attacks in (("Suggestion", report["attacks"]), ("Without privacy", report["baseline"]["attacks"])):
        rows = [
            [
                ATTACKS[a["attack"]],
                measured(a["auc"]),
                measured(a["membership_advantage"]),
                *(figure(rate["tpr"]) for rate in a["tpr_at_fpr"]),
            ]
            for a in attacks
        ]
        rates = [f"Members found at {100 * rate['fpr']:.3g} % false alarms" for rate in attacks[0]["tpr_at_fpr"]]
        head = ["Attack", "AUC (0.5 is guessing)", "Membership advantage", *rates]
        out.append(table(title, head, rows, numeric=range(1, len(head))))
    return out


def _search(report: Mapping[str, Any]) -> list[Block]:
    tuning = report["tuning"]
    return [
        text(
            f"{report['records']} records to train on, {len(report['features'])} features. {tuning['trials']} "
            f"trainings ({report['search']} search, then the best settings at each ε), {report['minutes']:.1f} "
            f"minutes, seed {report['seed']}. Settings were chosen on records apart; the figures above come "
            "from others still."
        ),
        text(
            (
                "With the search, whose number of trials was drawn at random and is secret, the suggestion spends ε = "
                f"{tuning['epsilon_with_tuning']:.3g} (Papernot and Steinke 2022)."
            )
            if report["search"] == "random"
            else (
                "Had all trainings of the search been published, they would prove ε = "
                f"{tuning['epsilon_with_tuning']:.3g} together (naive composition); `--search random` costs far less."
            )
        ),
    ]
