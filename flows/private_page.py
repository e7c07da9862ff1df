"""docs/privacy.md: its words are written by hand, its figures by this module, from the tables of reports/study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.pages import fill, grid, number
from tasks.files import read_json
from tasks.privacy.study_figures import search_figure, surfaces_figure

PAGE = Path("docs/privacy.md")
PARTS = (("Synthea-like", "table11", "table13"), ("HIV", "table12", "table14"))  # base networks, choices
TABLES = (*(name for part in PARTS for name in part[1:]), "floor_ceiling", "private_xray", "leakage", "search_progress")
OPTIMISERS = {"sgd": "SGD", "adam": "Adam"}
ENOUGH = 25  # trials that the study calls enough (6.3.4)
MISSING = "Not measured yet."
Tables = Mapping[str, Mapping[str, Any]]


def write_page(reports: Path, page: Path = PAGE) -> None:
    """Fill the page from the tables that are there, and draw the surfaces beside it."""
    if not page.exists():
        return
    tables = {name: read_json(file) for name in TABLES if (file := reports / f"{name}.json").exists()}
    for _, base, choices in PARTS:
        if base in tables and choices in tables:
            _draw(tables[base]["rows"], tables[choices]["surfaces"], page.parent / "figures", choices)
    for (title, optimiser), own in _searches(tables).items():
        search_figure(page.parent / f"figures/search_{title.split('-')[0].lower()}_{optimiser}.png", own)
    fill(page, BLOCKS, tables)


def _searches(tables: Tables) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in tables.get("search_progress", {}).get("rows", ()):
        found.setdefault((row["set"], row["optimiser"]), []).append(row)
    return found


def _draw(base: Sequence[Mapping[str, Any]], surfaces: Sequence[Mapping[str, Any]], folder: Path, name: str) -> None:
    leakage = {r["optimiser"]: r["mean"] for r in base if r["measure"] == "leakage"}
    for optimiser in dict.fromkeys(s["optimiser"] for s in surfaces):
        own = [s for s in surfaces if s["optimiser"] == optimiser]
        surfaces_figure(folder / f"surfaces_{name}_{optimiser}.png", own, base=leakage[optimiser])


def _base(tables: Tables) -> str:
    lines = [
        [title, OPTIMISERS[r["optimiser"]], r["measure"].replace("_", " ").replace("auc", "AUC"), _three(r),
         _short(r["published"])]
        for title, name, _ in PARTS
        for r in tables.get(name, {}).get("rows", ())
    ]  # fmt: skip
    return grid(["set", "optimiser", "figure", "measured", "published"], lines) if lines else MISSING


def _choices(tables: Tables) -> str:
    lines = []
    for title, _, name in PARTS:
        for r in tables.get(name, {}).get("rows", ()):
            published = r["published"] or {}
            epsilon, noise = r["epsilon"]["mean"], [c["noise"] for c in r["chosen"]]
            lines.append(
                [
                    title, OPTIMISERS[r["optimiser"]], str(r["t"]),
                    _three(r["utility_loss"]), _short(published.get("utility_loss")),
                    _three(r["privacy_risk"]), _short(published.get("privacy_risk")),
                    f"{min(noise):g} to {max(noise):g}", "–" if epsilon is None else f"{epsilon:.2f}",
                ]
            )  # fmt: skip
    head = ["set", "optimiser", "t", "loss of AUC", "published", "risk", "published ", "noise", "ε, where noisy"]
    return grid(head, lines) if lines else MISSING


def _search(tables: Tables) -> str:
    """A row a search: when its best came, and how near it was after the 25 trials that the study calls enough."""
    lines = []
    for (title, optimiser), own in _searches(tables).items():
        for r in own:
            last = r["best"][-1]
            early = [b for b in r["best"] if b["trial"] <= ENOUGH][-1]
            lines.append(
                [title, OPTIMISERS[optimiser], f"{r['most']:g}", str(r["trials"]), str(last["trial"]),
                 *(_short(b["objective"]) for b in (early, last)),
                 *(_short(last[k]) for k in ("utility_change", "leakage"))]
            )  # fmt: skip
    first = ["set", "optimiser", "up to", "trials", "best at"]
    head = [*first, f"objective after {ENOUGH}", "after all", "change of AUC", "risk"]
    return grid(head, lines) if lines else MISSING


def _floors(tables: Tables) -> str:
    if "floor_ceiling" not in tables:
        return MISSING
    lines = [
        [r["model"], f"{r['epsilon']:.2f}", number(r["mean"], r["sd"]), number(min(r["floors"])), number(r["largest"]),
         f"{r['above_zero']} of {len(r['seeds'])}"]
        for r in tables["floor_ceiling"]["rows"]
    ]  # fmt: skip
    return grid(["model", "proven ε", "measured floor", "least", "largest", "above 0"], lines)


def _xray(tables: Tables) -> str:
    if "private_xray" not in tables:
        return MISSING
    lines = [
        [r["model"], _three(r["accuracy"]), _three(r["balanced_accuracy"]), _three(r["membership_advantage"]),
         _three(r["attacks"]["features_only"]["membership_advantage"]), _short(r.get("advantage_ceiling"))]
        for r in tables["private_xray"]["rows"]
    ]  # fmt: skip
    head = ["student", "accuracy", "balanced", "membership advantage", "the same without the model", "at most, proven"]
    return grid(head, lines)


def _leakage(tables: Tables) -> str:
    """A row a model, attack and figure, a column a kind of answer."""
    if "leakage" not in tables:
        return MISSING
    rows = tables["leakage"]["rows"]
    answers = list(dict.fromkeys(r["answer"] for r in rows if r["answer"] not in ("weights", "none")))
    lines = []
    for key in dict.fromkeys((r["model"], r["attack"], r["figure"]) for r in rows):
        own = {r["answer"]: r for r in rows if (r["model"], r["attack"], r["figure"]) == key}
        whole = next((own[a] for a in ("weights", "none") if a in own), None)
        cells = [_three(whole)] if whole else [_three(own[a]) if a in own else "–" for a in answers]
        lines.append([*key, _short(next(iter(own.values()))["baseline"]), *cells, *[""] * (len(answers) - len(cells))])
    return grid(["model", "attack", "figure", "baseline", *(a.replace("_", " ") for a in answers)], lines)


def _three(spread: Mapping[str, Any]) -> str:
    """Mean ± standard deviation with three decimals, as the study prints its tables."""
    sd = spread["sd"]
    return _short(spread["mean"]) + ("" if sd is None else f" ± {_short(sd)}")


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


BLOCKS: dict[str, Callable[[Tables], str]] = {
    "base": _base, "choices": _choices, "search": _search, "floors": _floors, "xray": _xray, "leakage": _leakage,
}  # fmt: skip
