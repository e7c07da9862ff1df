"""Data: what was read, what was set aside, what the two tasks share, and whether a shortcut tells the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.promotion.dossier.blocks import Block, absent, chip, figures, heading, table, text
from tasks.promotion.dossier.reports import Reports
from tasks.promotion.dossier.words import humane, measured, number, pick, short

MOST_ROWS = 40  # of the quarantine that the page lists; the rest is in the report
REMEDIES = {"none": "none", "crop": "cropping the border", "mask_corners": "masking the corners"}


def data(reports: Reports) -> list[Block]:
    """The chapter's blocks."""
    report = reports.json("data")
    if not report:
        return [absent("The data stage has not reported (`reports/data.json`).")]
    tasks = pick(report, "tasks") or {}
    pictures = [figures(pictures)] if (pictures := reports.figures("data")) else []
    return [
        *_counts(tasks),
        *pictures,
        *_quarantine(report),
        *_overlap(pick(report, "overlap") or {}),
        *_shortcut(pick(report, "shortcut") or {}),
    ]


def _counts(tasks: Mapping[str, Any]) -> list[Block]:
    overview, classes = [], []
    for name, task in tasks.items():
        failed = pick(task, "expectations", "failed") or []
        status = str(pick(task, "source", "status"))
        leaks = sum((pick(task, "leaks") or {}).values())
        overview.append(
            [
                humane(name),
                number(pick(task, "records")),
                number(pick(task, "kept")),
                number(pick(task, "groups")) if pick(task, "groups") else "not known",
                number(leaks),
                f"{number(pick(task, 'expectations', 'ran'))}, {len(failed)} failed",
                f"{pick(task, 'source', 'declared')}: {status}",
                {"mono": short(str(pick(task, "source", "sha256") or ""))},
            ]
        )
        for label, counts in (pick(task, "classes") or {}).items():
            row = [number(counts.get(split)) for split in ("train", "val", "test")]
            classes.append([f"{humane(name)}: {label}", *row, number(sum(counts.values()))])
    head = ["Task", "Records", "Kept", "Patients or groups", "In two splits", "Expectations", "Source", "Digest"]
    return [
        text(
            "Each task's images were read, measured and hashed one by one. What could not be read, was blank, or stood "
            "under two labels was set aside; copies, and images of one patient, were kept in one split."
        ),
        table("What was read and kept", head, overview, numeric=(1, 2, 3, 4, 7)),
        table(
            "Images by class and split",
            ["Class", "Training", "Validation", "Test", "All"],
            classes,
            numeric=range(1, 5),
        ),
    ]


def _quarantine(report: Mapping[str, Any]) -> list[Block]:
    rows = pick(report, "quarantined") or []
    if not rows:
        return [heading("Quarantine"), text("No record was set aside.")]
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (humane(row["task"]), row["reason"])
        counts[key] = counts.get(key, 0) + 1
    summary = [[f"{task}: {reason}", number(n)] for (task, reason), n in sorted(counts.items())]
    shown = [[r["path"], humane(r["task"]), r["label"], r["reason"], r["detail"]] for r in rows[:MOST_ROWS]]
    rest = len(rows) - len(shown)
    more = f"; the other {number(rest)} are in reports/data.json" if rest else ""
    return [
        heading("Quarantine"),
        text(f"{number(len(rows))} records were set aside before anything was learnt from them."),
        table("Why records were set aside", ["Task and reason", "Records"], summary, numeric=(1,)),
        table(f"Records set aside{more}", ["File", "Task", "Label", "Reason", "Detail"], shown),
    ]


def _overlap(shared: Mapping[str, Any]) -> list[Block]:
    if not shared:
        return []
    exact, near, images = (pick(shared, key) or 0 for key in ("exact", "near", "images"))
    words = (
        f"Of the student's {number(images)} images, the teacher's declared training data hold {number(exact)} exactly "
        f"and {number(near)} as near copies. What the teacher has seen, the student's test cannot count as new."
    )
    rows = [
        [label, number(c.get("images")), number(c.get("exact")), number(c.get("near"))]
        for label, c in (pick(shared, "by_class") or {}).items()
    ]
    caption = "Student's images in the teacher's training data, by class"
    blocks = [heading("Overlap with the teacher's training data"), text(words)]
    return (
        [*blocks, table(caption, ["Class", "Images", "Exact", "Near copies"], rows, numeric=(1, 2, 3))]
        if rows
        else blocks
    )


def _shortcut(shortcut: Mapping[str, Any]) -> list[Block]:
    by_remedy = pick(shortcut, "by_remedy") or {}
    if not by_remedy:
        return []
    rows = []
    for remedy, found in by_remedy.items():
        name = humane(REMEDIES.get(remedy, remedy))
        in_use = chip("passed", "in use") if remedy == pick(shortcut, "remedy") else "–"
        cells = [measured(pick(found, region, "balanced_accuracy")) for region in ("border", "corners", "coarse")]
        rows.append([name, in_use, *cells, measured(_worst(found))])
    chance = next((pick(found, "border", "chance") for found in by_remedy.values()), None)
    words = (
        "A model may learn the class from what surrounds the anatomy. Gradient boosting was given the border alone, "
        f"the corners alone, and, for comparison, the whole image at 16×16 pixels; guessing gives {number(chance)}. A "
        "remedy takes the shortcut away, and the honest accuracy may then be lower."
    )
    head = ["Remedy", "", "Border alone", "Corners alone", "Whole image, coarse", "Gain over chance, worst"]
    return [
        heading("Shortcut probe"),
        text(words),
        table("Balanced accuracy from parts of the image (95 % interval)", head, rows, numeric=(2, 3, 4, 5)),
    ]


def _worst(found: Mapping[str, Any]) -> Any:
    gains = [g for region in ("border", "corners") if (g := pick(found, region, "gain"))]
    return max(gains, key=lambda g: g.get("value") or 0.0, default=None)
