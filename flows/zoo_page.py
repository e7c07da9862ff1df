"""docs/protection.md: its words are written by hand, its figures by this module, from reports/study/mitigation.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from flows.pages import fill, grid, number
from flows.zoo_table import RECIPE
from tasks.backdoor.zoo.plan import CLEAN, UNNAMED, zoo
from tasks.files import read_json
from tasks.stats import bootstrap

PAGE = Path("docs/protection.md")
NETWORKS = {"simple_cnn": "CNN", "resnet18": "ResNet-18"}
# What the promoted student of a backdoored teacher is held to: trigger control and the upper end of its interval, patch
# control, before and after the re-activation test.
TRIGGER, TRIGGER_HIGH, PATCH = 0.05, 0.10, 0.20
LEAST_ACCURACY = 0.7  # of the gate, as the policy of the table has it
OLDER = "†"  # beside rows by another recipe than the table's
Row = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]


def write_page(reports: Path, page: Path = PAGE) -> None:
    """Fill the page from the tables that are there."""
    names = ("mitigation", "ensemble", "unnamed")
    fill(page, BLOCKS, {n: read_json(f)["rows"] for n in names if (f := reports / f"{n}.json").exists()})


def within_accuracy(row: Row) -> bool:
    """Is the student's accuracy no lower than the undefended one's of the same teacher, by the latter's interval?"""
    return bool(row["after"]["accuracy"]["value"] >= row["before"]["all"]["accuracy"]["low"])


def misses(row: Row) -> list[str]:
    """What a promoted student of a backdoored teacher does not hold, in words; empty where it holds everything."""
    after, awake = row["after"], row["reactivated"]
    figures = [
        ("trigger control", after["control"]["value"], TRIGGER),
        ("its upper end", after["control"]["high"], TRIGGER_HIGH),
        ("patch control", after["patch_control"]["value"], PATCH),
        ("trigger control after re-activation", awake["control"]["value"], TRIGGER),
        ("its upper end after re-activation", awake["control"]["high"], TRIGGER_HIGH),
        ("patch control after re-activation", awake["patch_control"]["value"], PATCH),
    ]
    found = [f"{what} {number(value)}" for what, value, limit in figures if value > limit]
    if not within_accuracy(row):
        found.append(_lost(row))
    return found


def why_refused(row: Row) -> str:
    """Which of the gate's three checks the refused student fails (`tasks.backdoor.judge.checks`), in words.

    Older rows hold no figure of the scan: where patch and accuracy pass, it is what failed.
    """
    after = row["after"]
    patch, scan, accuracy = after["patch_control"], after.get("scan_control"), after["accuracy"]
    found = []
    if patch["high"] > PATCH:
        found.append(f"a patch steers {_steers(patch)}; at most {PATCH})")
    if scan and scan["high"] > TRIGGER_HIGH:
        what = f"{'frame' if scan['place'] == 'border' else 'square'} of {scan['pattern'].replace('_', ' ')}"
        found.append(f"a {what} steers {_steers(scan)}; at most {TRIGGER_HIGH:g})")
    if accuracy["low"] < LEAST_ACCURACY:
        found.append(f"accuracy {accuracy['value']:.3f} (down to {accuracy['low']:.3f}; at least {LEAST_ACCURACY})")
    if not found:
        found = [f"a simple pattern of the gate's scan steers more than {TRIGGER_HIGH:g} at its interval's upper end"]
    return ", ".join(found)


def _steers(figure: Mapping[str, float]) -> str:
    return f"{number(figure['value'])} of the images (up to {number(figure['high'])}"


def _lost(row: Row) -> str:
    after, before = row["after"]["accuracy"], row["before"]["all"]["accuracy"]
    short = before["low"] - after["value"]
    return f"accuracy {after['value']:.3f}, {short:.3f} below the interval of {before['value']:.3f}"


def _natural(row: Row) -> str:
    """What the same test makes of a clean teacher's student, where it was asked."""
    if not (found := row["reactivated"].get("clean_teacher")):
        return ""
    before, after = number(found["before"]["value"]), number(found["after"]["value"])
    return f" A clean teacher's student, put to the same test with the same trigger: {before} before, {after} after."


def _state(tables: Tables) -> str:
    rows = tables.get("mitigation", [])
    planned = len(zoo("", 64, 0))
    backdoored = [r for r in rows if r["attack"] != CLEAN]
    promoted = [r for r in backdoored if r["verdict"] == "promoted"]
    hold = [r for r in promoted if not misses(r)]
    clean = [r for r in rows if r["attack"] == CLEAN]
    lines = [
        f"{len(rows)} of the {planned} teachers are measured: {len(backdoored)} backdoored, {len(clean)} clean. "
        f"Students of the backdoored: {len(promoted)} promoted, {len(backdoored) - len(promoted)} refused; "
        f"{len(hold)} of the promoted hold every limit below, and {sum(r['verdict'] == 'promoted' for r in clean)} of "
        f"{len(clean)} clean teachers' students were promoted."
    ]
    for row in promoted:
        if found := misses(row):
            lines.append(f"- {_name(row)}: {'; '.join(found)}.{_natural(row)}")
    for row in clean:
        if row["verdict"] == "promoted" and not within_accuracy(row):
            lines.append(f"- {_name(row)}: {_lost(row)}.")
    lines += [f"- {_name(r)}: refused, {why_refused(r)}." for r in rows if r["verdict"] == "refused"]
    if backdoored:
        frozen = max(r["before"]["frozen"]["control"]["value"] for r in backdoored)
        patches = [r["before"]["all"]["patch_control"]["value"] for r in backdoored]
        after = [r["after"]["patch_control"]["value"] for r in promoted] or [float("nan")]
        lines.append(
            f"\nWithout defence the planted triggers steer up to {number(frozen)} of the images, and the search finds "
            f"patches that steer {number(min(patches))} to {number(max(patches))}. After the pipeline the best patch "
            f"found steers {number(min(after))} to {number(max(after))}."
        )
    lines += [f"\n{_cost(name, own)}" for name in NETWORKS if (own := [r for r in rows if r["architecture"] == name])]
    if older := [r for r in rows if RECIPE in r]:
        keys = sorted({f"`student.{key}` {value or 'off'}" for r in older for key, value in r[RECIPE].items()})
        lines.append(f"\n{OLDER} {len(older)} rows are of an earlier recipe: {', '.join(keys)}.")
    return "\n".join(lines)


def _cost(network: str, rows: Sequence[Row]) -> str:
    """What the pipeline costs in accuracy over all teachers of one network, promoted or not."""
    before = np.array([r["before"]["all"]["accuracy"]["value"] for r in rows])
    after = np.array([r["after"]["accuracy"]["value"] for r in rows])
    low, high = bootstrap(np.mean, after - before, seed=0)
    below = sum(not within_accuracy(r) for r in rows)
    return (
        f"Mean accuracy over the teachers, {NETWORKS[network]}: {before.mean():.3f} undefended, "
        f"{after.mean():.3f} after the pipeline, {(after - before).mean():+.3f} [{low:+.3f}, {high:+.3f}]; {below} of "
        f"{len(rows)} end below the undefended student's own interval."
    )


def _name(row: Row) -> str:
    if row["attack"] == CLEAN:
        return f"{_network(row)}, clean, seed {row['seed']}"
    side = "whole image" if row["side"] == 224 else f"{row['side']} px"
    return f"{_network(row)}, {row['attack']} {side}, {row['poison_rate']:g}, seed {row['seed']}"


def _network(row: Row) -> str:
    return NETWORKS[row["architecture"]] + (f" {OLDER}" if RECIPE in row else "")


def _backdoored(tables: Tables) -> str:
    header = (
        "network", "attack", "side of 224", "poison", "control in the teacher", "frozen features, undefended",
        "all features, undefended: accuracy", "trigger", "patch", "after: accuracy", "trigger ", "patch ",
        "re-activated: trigger", "patch  ", "by", "verdict",
    )  # fmt: skip
    lines = []
    for r in (r for r in tables.get("mitigation", []) if r["attack"] != CLEAN):
        before, after, awake = r["before"], r["after"], r["reactivated"]
        lines.append(
            (
                _network(r), r["attack"], str(r["side"]), f"{r['poison_rate']:g}",
                number(r["teacher"]["control"]["value"]), number(before["frozen"]["control"]["value"]),
                number(before["all"]["accuracy"]["value"]), number(before["all"]["control"]["value"]),
                number(before["all"]["patch_control"]["value"]), number(after["accuracy"]["value"]),
                f"**{number(after['control']['value'])}** [{number(after['control']['high'])}]",
                f"**{number(after['patch_control']['value'])}** [{number(after['patch_control']['high'])}]",
                f"{number(awake['control']['value'])} [{number(awake['control']['high'])}]",
                number(awake["patch_control"]["value"]), r["mitigation"], r["verdict"],
            )
        )  # fmt: skip
    return grid(header, lines) if lines else "Not measured yet."


def _clean(tables: Tables) -> str:
    header = (
        "network", "seed", "undefended accuracy", "after: accuracy", "white corner", "patch", "by", "verdict",
    )  # fmt: skip
    lines = [
        (
            _network(r), str(r["seed"]), number(r["before"]["all"]["accuracy"]["value"]),
            number(r["after"]["accuracy"]["value"]), number(r["after"]["control"]["value"]),
            number(r["after"]["patch_control"]["value"]), r["mitigation"], r["verdict"],
        )
        for r in tables.get("mitigation", [])
        if r["attack"] == CLEAN
    ]  # fmt: skip
    return grid(header, lines) if lines else "Not measured yet."


def _ensembles(tables: Tables) -> str:
    """One row an attack and rule: means over its teachers, and the worst."""
    rows = tables.get("ensemble", [])
    header = (
        "network", "attack", "teachers", "alone: accuracy", "trigger, mean", "most", "majority: accuracy",
        "trigger, mean ", "most ", "refused", "unanimous: accuracy", "trigger, mean  ", "most  ", "refused ",
    )  # fmt: skip
    lines = []
    for kind in dict.fromkeys((r["architecture"], r["attack"]) for r in rows):
        own = [r for r in rows if (r["architecture"], r["attack"]) == kind]
        cells = [NETWORKS[kind[0]], kind[1], str(len(own))]
        for rule in ("alone", "majority", "unanimous"):
            control = [r[rule]["trigger_control"]["value"] for r in own]
            cells += [number(mean(r[rule]["accuracy"] for r in own)), number(mean(control)), number(max(control))]
            if rule != "alone":
                cells.append(number(mean(r[rule]["refusal_rate"] for r in own)))
        lines.append(tuple(cells))
    return grid(header, lines) if lines else "Not measured yet."


def _unnamed(tables: Tables) -> str:
    """Marks that nothing was chosen on; beside each student that of a teacher which never met the mark."""
    header = (
        "mark", "poison", "control in the teacher", "vet", "frozen features, undefended", "all features, undefended",
        "a clean teacher's", "after the pipeline", "a clean teacher's ", "re-activated", "accuracy before", "after",
        "verdict",
    )  # fmt: skip
    lines, marked = [], [r for r in tables.get("unnamed", []) if r["attack"] != CLEAN]
    whole = [r for r in marked if "after" in r]
    for r in whole:
        before, after, natural = r["before"], r["after"], r["clean_teacher"]
        control = after["control"]
        lines.append(
            (
                r["attack"].replace("_", " "), f"{r['poison_rate']:g}", number(r["teacher"]["control"]["value"]),
                f"{number(r['vet']['score'])} {r['vet']['verdict']}", number(before["frozen"]["control"]["value"]),
                number(before["all"]["control"]["value"]), number(natural["before"]["value"]),
                f"**{number(control['value'])}** [{number(control['high'])}]", number(natural["after"]["value"]),
                number(r["reactivated"]["control"]["value"]), number(before["all"]["accuracy"]["value"]),
                number(after["accuracy"]["value"]), r["verdict"],
            )
        )  # fmt: skip
    if not marked:
        return "Not measured yet."
    tampered = sum(r["vet"]["verdict"] == "tampered" for r in marked)
    seen = [
        f"{r['attack'].replace('_', ' ')} {number(r['vet']['score'])}"
        for r in sorted(marked, key=lambda r: -float(r["vet"]["score"]))
    ]
    return (
        f"{len(whole)} of {len(UNNAMED)} marks went through the pipeline; `vet` calls {tampered} of {len(marked)} "
        f"teachers tampered (score at least .5): {', '.join(seen)}.\n\n{grid(header, lines)}"
    )


BLOCKS: Mapping[str, Callable[[Tables], str]] = {
    "state": _state,
    "backdoored": _backdoored,
    "clean": _clean,
    "ensembles": _ensembles,
    "unnamed": _unnamed,
}
