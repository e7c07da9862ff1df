"""docs/detection.md: words by hand, figures by this module, from zoo.json, filter.json and vet_digits.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.pages import fill, grid, number
from flows.zoo_page import NETWORKS
from tasks.backdoor.zoo.detection import COMBINED
from tasks.files import read_json

PAGE = Path("docs/detection.md")
Tables = Mapping[str, dict[str, Any]]
FILTERS = {"deviation": "feature deviation", "scaling": "amplification", "strip": "STRIP", "occlusion": "occlusion"}


def write_page(reports: Path, page: Path = PAGE) -> None:
    """Fill the page from the tables that are there."""
    names = ("zoo", "filter", "vet_digits")
    fill(page, BLOCKS, {t: read_json(f) for t in names if (f := reports / f"{t}.json").exists()})


def _share(figures: dict[str, Any]) -> str:
    return f"{number(figures['value'])} [{number(figures['low'])}, {number(figures['high'])}]"


def _state(tables: Tables) -> str:
    if not (table := tables.get("zoo")):
        return "Not measured yet."
    rows, own = table["rows"], table["summary"][COMBINED]
    beside = " ".join(
        f"{NETWORKS[name]}: {c['clean']} clean references and {c['canaries']} canaries from {c['images']} clean "
        f"images; on these `vet` itself states a power of {_share(c['power'])} at {_share(c['false_alarms'])} false "
        "alarms."
        for name, c in table["calibrations"].items()
    )
    return (
        f"{len(rows)} teachers ({sum(r['backdoored'] for r in rows)} backdoored) vetted. The combined score has "
        f"an AUC of {_share(own['auc'])}; it calls {_share(own['detected'])} of the backdoored and "
        f"{_share(own['false_alarms'])} of the clean teachers tampered. The verdict on the others: "
        + "; ".join(f"{n} {v}" for v, n in _verdicts(rows).items())
        + f". {beside}"
    )


def _verdicts(rows: list[dict[str, Any]]) -> dict[str, int]:
    others = [r["verdict"] for r in rows if r["verdict"] != "tampered"]
    return {v: others.count(v) for v in dict.fromkeys(others)}


def _detectors(tables: Tables) -> str:
    if not (table := tables.get("zoo")):
        return "Not measured yet."
    lines = [
        (name.replace("_", " "), _share(f["auc"]), _share(f["detected"]), _share(f["false_alarms"]))
        for name, f in table["summary"].items()
    ]
    return grid(("detector", "AUC", "detected", "false alarms"), lines)


def _escaped(tables: Tables) -> str:
    """Every backdoored teacher, the least suspected first."""
    if not (table := tables.get("zoo")):
        return "Not measured yet."
    rows = sorted((r for r in table["rows"] if r["backdoored"]), key=lambda r: r["score"])
    header = ("network", "attack", "side of 224", "poison", "score", "verdict")
    lines = [
        (
            NETWORKS[r["architecture"]], r["attack"], str(r["side"]), f"{r['poison_rate']:g}",
            f"{r['score']:.2f}", r["verdict"],
        )
        for r in rows
    ]  # fmt: skip
    highest = max((r["score"] for r in table["rows"] if not r["backdoored"]), default=float("nan"))
    return grid(header, lines) + f"\n\nThe most suspected clean teacher scores {highest:.2f}; .5 is the threshold."


def _filters(tables: Tables) -> str:
    if not (table := tables.get("filter")):
        return "Not measured yet."
    summary = table["summary"]
    header = (
        "filter",
        "mean AUROC",
        "least",
        "rows at .90 or more",
        "clean refused, mean",
        "most",
        "triggered refused",
    )
    lines = [
        (
            FILTERS.get(name, "chosen on the other seeds"), number(f["auroc_mean"]), number(f["auroc_least"]),
            f"{f['rows_at_least_.90']} of {summary['steered']}", number(f["false_refusals_mean"]),
            number(f["false_refusals_most"]), number(f["triggered_refused_mean"]),
        )
        for name, f in summary.items()
        if isinstance(f, dict)
    ]  # fmt: skip
    return grid(header, lines) + (
        f"\n\n{summary['rows']} students measured, {summary['steered']} with trigger control above .5; "
        f"{table['cells']['done']} of {table['cells']['planned']} planned teachers done."
    )


def _digits(tables: Tables) -> str:
    if not (table := tables.get("vet_digits")):
        return "Not measured yet."
    rows = [
        (
            r["attack"].replace("_", " "), str(r["side"] or "–"), f"{r['poison_rate']:g}", f"{r['accuracy']:.3f}",
            "–" if r["control"] is None else number(r["control"]), number(r["score"]), r["verdict"],
        )
        for r in sorted(table["rows"], key=lambda r: (r["backdoored"], r["score"]))
    ]  # fmt: skip
    own = table["summary"][COMBINED]
    said = (
        f"{len(table['rows'])} of {table['planned']} teachers: an AUC of {_share(own['auc'])}; "
        f"{_share(own['detected'])} of the backdoored and {_share(own['false_alarms'])} of the clean ones are called "
        "tampered."
    )
    header = ("attack", "side of 32", "poison", "accuracy", "control in the teacher", "score", "verdict")
    return f"{said}\n\n{grid(header, rows)}"


BLOCKS: Mapping[str, Callable[[Tables], str]] = {
    "state": _state,
    "detectors": _detectors,
    "escaped": _escaped,
    "digits": _digits,
    "filters": _filters,
}
