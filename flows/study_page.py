"""docs/study.md: its words are written by hand, its tables and counted sentences by this module, from reports/study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.pages import fill, grid, number
from tasks.backdoor.study.tables import TABLES
from tasks.files import read_json

PAGE = Path("docs/study.md")
Rows = list[dict[str, Any]]
Tables = Mapping[str, Rows]
APART = 0.25  # difference in success from which a cell is named as far from the published one
TOOK = 0.5  # a teacher's own success from which its backdoor can be asked whether it transfers
SLACK = 0.02  # within which two success rates count as equal
NETWORKS = {"simple_cnn": "simple CNN", "resnet18": "ResNet-18"}


def write_page(reports: Path, page: Path = PAGE) -> None:
    """Fill the page's blocks from the tables that are there; GatehouseError for a block that nobody fills."""
    tables = {t: read_json(reports / f"{t}.json")["rows"] for t in TABLES if (reports / f"{t}.json").exists()}
    fill(page, BLOCKS, tables)


def _side(row: dict[str, Any]) -> str:
    return f"{row['side']} ({row['trigger_pixels']})" if row["side"] else "–"


def _transfer(name: str, key: str) -> Callable[[Tables], str]:
    def block(tables: Tables) -> str:
        parts = []
        for architecture, title in NETWORKS.items():
            rows = _of_network(tables.get(name, []), architecture)
            if not rows:
                continue
            header = (
                "attack", key, "side of 224 (pixels here)", "success", "published", "without trigger", "accuracy",
                "published ", "trigger control", "raises", "seeds",
            )  # fmt: skip
            lines = [
                (
                    r["attack"], str(r[key]), _side(r),
                    f"**{number(r['mean'], r['sd'])}**", number(r["published"]["mean"], r["published"]["sd"]),
                    number(r["clean_rate"]["mean"]),
                    number(r["accuracy"]["mean"], r["accuracy"]["sd"]), number(r["published"]["accuracy"]),
                    number(r["trigger_control"]["mean"], r["trigger_control"]["sd"]), r.get("worst_class", "–"),
                    str(r["seeds"]),
                )
                for r in rows
            ]  # fmt: skip
            parts.append(f"**{title}**\n\n{grid(header, lines)}")
        return "\n\n".join(parts) or "Not measured yet."

    return block


def _more_images(tables: Tables) -> str:
    """Students of the same teachers on all images, beside those of Table 3's first seed."""
    sample = {(r["attack"], r["trainable"], r["side"]): r for r in _of_network(tables.get("table3", []), "simple_cnn")}
    header = (
        "attack", "trainable", "side of 224 (pixels here)", "images", "success", "images in Table 3", "success there",
        "published", "clean images get this class", "accuracy", "published ",
    )  # fmt: skip
    lines = []
    for r in tables.get("more_images", []):
        there = sample[r["attack"], r["trainable"], r["side"]]
        lines.append(
            (
                r["attack"], r["trainable"], _side(r), "all", f"**{number(r['mean'])}**",
                str(there["sizes"].get("images", "–")), number(there["values"][0] if there["values"] else None),
                number(r["published"]["mean"]), number(r["clean_rate"]["mean"]), number(r["accuracy"]["mean"]),
                number(r["published"]["accuracy"]),
            )
        )  # fmt: skip
    return grid(header, lines) if lines else "Not measured yet."


def _of_network(rows: Rows, architecture: str) -> Rows:
    return [r for r in rows if r["architecture"] == architecture]


def _strip(name: str) -> Callable[[Tables], str]:
    def block(tables: Tables) -> str:
        header = (
            "attack", "side of 224 (pixels here)", "F1", "published", "precision", "published ", "recall",
            "published  ", "F1 by the study's rule", "recall by it", "AUROC", "blend weight", "seeds",
        )  # fmt: skip
        lines = []
        for r in tables.get(name, []):
            own = r["published"]
            pairs = [(r["mean"], r["sd"], own["f1"])]
            pairs += [(r[k]["mean"], r[k]["sd"], own[k]) for k in ("precision", "recall")]
            shown = [text for mean, sd, published in pairs for text in (number(mean, sd), number(published))]
            rest = [number(r[k]["mean"], r[k]["sd"]) for k in ("study_rule_f1", "study_rule_recall", "auroc")]
            alpha = "–" if r["alpha"]["mean"] is None else f"{r['alpha']['mean']:g}"
            lines.append((r["attack"], _side(r), *shown, *rest, alpha, str(r["seeds"])))
        return grid(header, lines) if lines else "Not measured yet."

    return block


def _recovery(tables: Tables) -> str:
    header = (
        "network", "attack", "side of 224 (pixels here)", "overlap with the square (IoU)", "recovered pattern works",
        "its mask, pixels", "the other class's mask, pixels", "seeds",
    )  # fmt: skip
    lines = [
        (
            NETWORKS[r["architecture"]], r["attack"], _side(r), number(r["mean"], r["sd"]),
            number(r["success"]["mean"]), number(r["mask_pixels"]["mean"]),
            number(r["other_class_mask_pixels"]["mean"]), str(r["seeds"]),
        )
        for r in tables.get("recovery", [])
    ]  # fmt: skip
    return grid(header, lines) if lines else "Not measured yet."


def _teachers(tables: Tables) -> str:
    """A line a kind of teacher; the students' rows carry their teachers' figures."""
    header = ("network", "attack", "side of 224 (pixels here)", "teacher's own success", "teacher's accuracy", "seeds")
    seen: dict[tuple[Any, ...], tuple[str, ...]] = {}
    for r in [*tables.get("table4", []), *tables.get("table3", []), *tables.get("table5", [])]:
        own = r["teacher"]
        seen[r["architecture"], r["attack"], r["side"]] = (
            NETWORKS[r["architecture"]], r["attack"], _side(r),
            number(own["attack_success_rate"]["mean"], own["attack_success_rate"]["sd"]),
            number(own["accuracy"]["mean"], own["accuracy"]["sd"]), str(own["seeds"]),
        )  # fmt: skip
    return grid(header, seen.values()) if seen else "Not measured yet."


def _order(*names: str) -> Callable[[Tables], str]:
    """Does success fall with every block that is trained anew, as published? Counted where the teacher is infected."""
    return lambda tables: _order_of([r for name in names for r in tables.get(name, []) if r["mean"] is not None])


def _order_of(rows: Rows) -> str:
    families: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for r in rows:
        families.setdefault((r["architecture"], r["attack"], r["side"]), {})[r["trainable"]] = r
    whole = {k: f for k, f in families.items() if set(f) == {"all", "last", "none"}}
    infected = {k: f for k, f in whole.items() if (f["none"]["teacher"]["attack_success_rate"]["mean"] or 0) >= TOOK}
    if not infected:
        return "Not measured yet."
    holds: list[Any] = []
    broken: list[Any] = []
    for k, f in infected.items():
        a, last, none = (f[p]["mean"] for p in ("all", "last", "none"))
        (holds if a <= last + SLACK and last <= none + SLACK else broken).append((k, f))
    sentence = (
        f"Of {len(whole)} combinations of network, attack and side, {len(infected)} have teachers with an attack "
        f"success of their own of at least {TOOK:.1f}. In {len(holds)} of these the order all ≤ last ≤ none holds for "
        f"the students' success (equal within {SLACK:.2f})."
    )
    lines = [
        f"- {NETWORKS[n]}, {attack}, {side} px: "
        + "; ".join(
            f"{p} {number(f[p]['mean'])} (the clean images get this class at {number(f[p]['clean_rate']['mean'])}, "
            f"control {number(f[p]['trigger_control']['mean'])} of {f[p].get('worst_class', '–')})"
            for p in ("all", "last", "none")
        )
        for (n, attack, side), f in broken
    ]
    return sentence + ("\n\nWhere it does not:\n\n" + "\n".join(lines) if lines else "")


def _apart(tables: Tables) -> str:
    """Cells whose success differs much from the published one, by how much, largest first."""
    named = []
    for name in ("table3", "table4", "table5", "table6", "table7"):
        for r in tables.get(name, []):
            if r["mean"] is None or r["published"] is None:
                continue
            gap = r["mean"] - r["published"]["mean"]
            if abs(gap) >= APART:
                named.append((gap, name, r))
    compared = sum(
        r["mean"] is not None for n in ("table3", "table4", "table5", "table6", "table7") for r in tables.get(n, [])
    )
    if not compared:
        return "Not measured yet."
    higher = sum(gap > 0 for gap, _, _ in named)
    lead = (
        f"Of {compared} success rates measured, {compared - len(named)} lie within {APART:.2f} of the published one; "
        f"{higher} lie above it by more, {len(named) - higher} below."
    )
    header = (
        "table",
        "network",
        "attack",
        "what",
        "side",
        "success",
        "published",
        "clean images get this class",
        "teacher's own success",
    )
    lines = [
        (
            name.removeprefix("table"), NETWORKS[r["architecture"]], r["attack"],
            f"{r['model']}, {r['defence'].replace('_', '-')}" if "defence" in r else f"trainable {r['trainable']}",
            str(r["side"]), number(r["mean"], r["sd"]), number(r["published"]["mean"]), number(r["clean_rate"]["mean"]),
            number(r["teacher"]["attack_success_rate"]["mean"]),
        )
        for gap, name, r in sorted(named, key=lambda item: -abs(item[0]))
    ]  # fmt: skip
    return lead + ("\n\n" + grid(header, lines) if lines else "")


def _state(tables: Tables) -> str:
    """What was measured, on what, and what it cost."""
    lines = []
    for architecture, title in NETWORKS.items():
        rows = [r for t in tables.values() for r in t if r["architecture"] == architecture]
        done = [r for r in rows if r["seeds"]]
        if not rows:
            continue
        if not done:
            lines.append((title, f"0 of {len(rows)}", "–", "–", "–", "–"))
            continue
        student = next((r for r in done if r in tables.get("table3", [])), done[0])
        sizes, seeds = student["sizes"], [r["seeds"] for r in done]
        lines.append(
            (
                title, f"{len(done)} of {len(rows)}", " to ".join(map(str, sorted({min(seeds), max(seeds)}))),
                f"{done[0]['image_size']} px", "; ".join(sorted({r["hardware"] for r in done})),
                f"{sizes.get('images', '–')} images, {sizes.get('epochs', '–')} epochs a student",
            )
        )  # fmt: skip
    header = ("network", "rows measured", "seeds", "images", "hardware", "students")
    return grid(header, lines) if lines else "Not measured yet."


BLOCKS: dict[str, Callable[[Tables], str]] = {
    "state": _state,
    "teachers": _teachers,
    "table3": _transfer("table3", "trainable"),
    "table4": _transfer("table4", "trainable"),
    "table5": _transfer("table5", "trainable"),
    "table6": _transfer("table6", "defence"),
    "table7": _transfer("table7", "defence"),
    "table8": _strip("table8"),
    "table9": _strip("table9"),
    "recovery": _recovery,
    "more_images": _more_images,
    "balanced": _transfer("balanced", "trainable"),
    "order": _order("table3", "table5"),
    "order_balanced": _order("balanced"),
    "apart": _apart,
}
