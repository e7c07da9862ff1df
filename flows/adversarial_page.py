"""docs/adversarial.md: its words are written by hand, its figures by this module, from the tables of reports/study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.pages import fill, grid, number
from tasks.files import read_json

PAGE = Path("docs/adversarial.md")
BENCH = Path("reports/bench")
TABLES = ("graybox", "fingerprint", "robust")
NETWORKS = {"simple_cnn": "CNN", "efficientnet_lite0": "EfficientNet-Lite0"}
POLICIES = {"none": "none (all frozen)", "last": "last block", "all": "all"}
MISSING = "Not measured yet."
Tables = Mapping[str, Mapping[str, Any]]


def write_page(reports: Path, page: Path = PAGE) -> None:
    """Fill the page from the tables that are there."""
    files = {name: reports / f"{name}.json" for name in TABLES} | {n: BENCH / f"{n}.json" for n in ("apgd", "square")}
    fill(page, BLOCKS, {name: read_json(file) for name, file in files.items() if file.exists()})


def _ranged(share: Mapping[str, Any]) -> str:
    """A share with its 95 % interval."""
    value = share["mean"] if "mean" in share else share["value"]
    return f"{number(value)} [{number(share['low'])}, {number(share['high'])}]"


def _graybox(tables: Tables) -> str:
    """A row a network, freeze policy and attack; a column a budget."""
    if "graybox" not in tables:
        return MISSING
    rows = tables["graybox"]["rows"]
    budgets = list(dict.fromkeys(r["budget"] for r in rows))
    lines = []
    for key in dict.fromkeys((r["architecture"], r["trainable"], r["attack"]) for r in rows):
        own = {r["budget"]: r for r in rows if (r["architecture"], r["trainable"], r["attack"]) == key}
        first = next(iter(own.values()))
        accuracy = number(first["student_accuracy"]["mean"])
        shares = [_ranged(own[b]) for b in budgets]
        named = [NETWORKS[key[0]], POLICIES[key[1]], str(len(first["seeds"])), accuracy, key[2].replace("_", " ")]
        lines.append([*named, *shares])
    return grid(["network", "trained", "seeds", "accuracy", "attack", *budgets], lines)


def _fingerprint(tables: Tables) -> str:
    if "fingerprint" not in tables:
        return MISSING
    lines = [
        [NETWORKS[r["architecture"]], POLICIES[r["trainable"]], str(r["candidates"]), str(r["queries"]),
         f"{r['right']} of {r['students']}", _ranged(r)]
        for r in tables["fingerprint"]["rows"]
    ]  # fmt: skip
    return grid(["network", "trained", "candidates", "queries", "named rightly", "rate"], lines)


def _robust(tables: Tables) -> str:
    """A row a defence: what it costs, and what is left to each attacker."""
    if "robust" not in tables:
        return MISSING
    lines = []
    for r in tables["robust"]["rows"]:
        gray, black, white = (r["success"][t] for t in ("gray_box", "black_box", "white_box"))
        certified = next(c for c in r["certified"] if c["radius"] == 0.1)
        lines.append(
            [
                r["title"],
                str(len(r["seeds"])),
                number(r["accuracy"]["mean"], r["accuracy"]["sd"]),
                _ranged(gray[-1]),
                number(black[-1]["mean"]),
                number(white[0]["mean"]),
                _ranged(r["robust_accuracy"][-2]),
                number(certified["mean"]),
            ]
        )
    head = [
        "defence", "seeds", "accuracy", "gray box, 8/255", "black box, 8/255", "white box, 1/255",
        "accuracy under the white box, 4/255", "certified at L2 .1",
    ]  # fmt: skip
    return grid(head, lines)


def _refusing(tables: Tables) -> str:
    """Models that may refuse: only wrong answers that are given count, and refusals of untouched images cost."""
    rows = tables.get("robust", {}).get("refusing")
    if not rows:
        return MISSING
    lines = [
        [
            r["title"],
            str(len(r["seeds"])),
            number(r["accuracy"]["mean"], r["accuracy"]["sd"]),
            _ranged(r["refused"]),
            _ranged(r["success"]["gray_box"][-1]),
            _ranged(r["success"]["white_box"][0]),
            _ranged(r["success"]["white_box"][-2]),
        ]
        for r in rows
    ]
    head = [
        "defence",
        "seeds",
        "right and answered",
        "refused",
        "gray box, 8/255",
        "white box, 1/255",
        "white box, 4/255",
    ]
    return grid(head, lines)


def _bench(tables: Tables) -> str:
    lines = []
    for name, title in (("apgd", "Auto-PGD"), ("square", "Square")):
        if name in tables:
            own = tables[name]
            peers = own["peers"]
            lines.append(
                [title, str(own["ours"]), *(f"{peers[p]} ({own['ratio'][p]}×)" for p in ("art", "torchattacks"))]
            )
    return grid(["attack", "ours, images a second", "ART 1.20", "torchattacks 3.5.1"], lines) if lines else MISSING


BLOCKS: dict[str, Callable[[Tables], str]] = {
    "graybox": _graybox, "fingerprint": _fingerprint, "robust": _robust, "refusing": _refusing,
    "bench": _bench,
}  # fmt: skip
