"""Images in; a manifest, an array file, figures and the data gate's verdict out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from flows.stage import Context, main
from tasks.data.build import Reading, read
from tasks.data.checks import ASSUMPTIONS, LIMITS, SourceStatus, data_checks, remember, source_status
from tasks.data.dataset import MANIFEST, SPLITS
from tasks.data.decode import REMEDIES, Remedy
from tasks.data.expectations import expect
from tasks.data.figures import class_histogram, contact_sheet, shortcut_bars
from tasks.data.prepare import Overlap, Prepared, leaks, overlap, prepare_task, save
from tasks.data.shortcut import Told, probe
from tasks.data.sources import open_source
from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_file, write_json, writing
from tasks.gate import GateResult, Subject
from tasks.params import Task
from tasks.risk import load_policy

TASKS = ("teacher_task", "student_task")
FIGURES = Path("reports/figures/data")
# What each declared source held when it was first seen. Kept outside the DAG: a stage's own outputs are removed
# before it runs.
MEMORY = Path(".gatehouse/sources.json")


def data(context: Context) -> None:
    """Read, check, clean and split the images of both tasks; write them, their figures and the data gate's result."""
    params = context.params.data
    seed = context.params.run.seed
    policy = load_policy()
    prepared: dict[str, Prepared] = {}
    for name in TASKS:
        prepared[name] = prepare_task(_read(context, name), params, seed=seed)
    teacher, student = prepared["teacher_task"], prepared["student_task"]

    context.say("the data gate measures")
    expectations = {n: expect(p.manifest, p.classes, params.declared_source) for n, p in prepared.items()}
    leaked = {n: leaks(p, near_duplicate_bits=params.near_duplicate_bits) for n, p in prepared.items()}
    shared = overlap(student.reading, teacher.reading, near_duplicate_bits=params.near_duplicate_bits)
    told = {remedy: _probe(context, student, remedy) for remedy in REMEDIES}
    sources = _sources(context, prepared)
    checks = data_checks(
        teacher,
        student,
        expectations=[row for rows in expectations.values() for row in rows],
        leaked=sum(sum(found.values()) for found in leaked.values()),
        overlap=shared,
        sources=list(sources.values()),
        told=told[params.remedy],
        threshold=lambda check: policy.threshold("data", check),
    )

    for name, p in prepared.items():
        save(p, Path("data") / name)
    _figures(prepared, told, policy.threshold("data", "shortcut_balanced_accuracy_gain"), params.remedy, seed)
    subject = Path("data/student_task") / MANIFEST
    result = GateResult(
        gate="data",
        candidate="student_task",
        subject=Subject(path=str(subject), sha256=sha256_file(subject)),
        policy_sha256=policy.sha256,
        checks=checks,
        assumptions=ASSUMPTIONS,
        limits=LIMITS,
        run_id=context.run_id,
    )
    report = {
        "tasks": {n: _task(p, expectations[n], leaked[n], sources[n]) for n, p in prepared.items()},
        "overlap": _overlap(shared),
        "shortcut": {
            "remedy": params.remedy,
            "by_remedy": {r: {k: v.record() for k, v in found.items()} for r, found in told.items()},
            "coarse": "gradient boosting on the whole image at 16×16 pixels: a cheap stand-in for a model's accuracy",
        },
        "quarantined": [
            {"task": n, "path": q.path, "label": q.label, "reason": q.reason, "detail": q.detail}
            for n, p in prepared.items()
            for q in p.cleaned.quarantined
        ],
    }
    write_json(Path("reports/data.json"), report)
    result.write()
    context.metrics(_metrics(prepared, shared, told))
    _say(context, prepared, shared, result)


def _read(context: Context, name: str) -> Reading:
    params = context.params
    task: Task = getattr(params.data, name)
    records = open_source(params.data, task, seed=params.run.seed)
    return read(
        records,
        params.data,
        threads=params.run.threads,
        progress=lambda done, total: context.progress(done, total, f"images of the {name.replace('_', ' ')}"),
    )


def _probe(context: Context, student: Prepared, remedy: Remedy) -> dict[str, Told]:
    params = context.params
    return probe(
        student.reading.images[remedy][student.cleaned.rows],
        student.labels,
        student.manifest["split"].to_numpy(str),
        remedy=remedy,
        border_fraction=params.data.border_fraction,
        corner_fraction=params.data.corner_fraction,
        seed=params.run.seed,
    )


def _sources(context: Context, prepared: dict[str, Prepared]) -> dict[str, SourceStatus]:
    """Compare each source with what was first seen under its declaration, and remember new ones."""
    params = context.params
    memory: dict[str, Any] = read_json(MEMORY) if MEMORY.exists() else {}
    if not isinstance(memory, dict):
        raise GatehouseError(f"{MEMORY} holds no record of sources; delete it and run again.")
    root = Path(params.data.root)
    drawing = f" drawn by {sha256_file(root)[:16]} at {params.data.image_size}" if root.is_file() else ""
    found: dict[str, SourceStatus] = {}
    for name, p in prepared.items():
        task: Task = getattr(params.data, name)
        key = (
            f"{params.data.declared_source}: {params.data.source} {task.path}, images {task.images}, "
            f"channels {params.data.channels}, seed {params.run.seed}{drawing}"
        )
        digest = p.reading.digest()
        found[name] = source_status(memory, key, params.data.declared_source, digest)
        memory = remember(memory, key, digest, len(p.reading.records) + len(p.reading.unreadable))
    write_json(MEMORY, memory)
    return found


def _task(p: Prepared, expectations: list[dict[str, Any]], leaked: dict[str, int], source: str) -> dict[str, Any]:
    """What the report says of one task."""
    counts = p.manifest.groupby(["label", "split"]).size()
    groups = p.manifest["group"]
    return {
        "records": len(p.reading.records) + len(p.reading.unreadable),
        "kept": len(p.manifest),
        "classes": {c: {s: int(counts.get((c, s), 0)) for s in SPLITS} for c in p.classes},
        "groups": int(groups[groups != ""].nunique()),
        "units": len(set(p.cleaned.units.tolist())),
        "near_copies": len(p.cleaned.near_pairs),
        "quarantined": dict(Counter(q.reason for q in p.cleaned.quarantined)),
        "leaks": leaked,
        "source": {"status": source, "sha256": p.reading.digest(), "declared": str(p.manifest["source"].iloc[0])},
        "expectations": {
            "ran": len(expectations),
            "failed": [e for e in expectations if not e["passed"]],
        },
    }


def _overlap(shared: Overlap) -> dict[str, Any]:
    return {
        "images": len(shared.labels),
        "exact": int(shared.exact.sum()),
        "near": int(shared.near.sum()),
        "share": float(shared.either.mean()),
        "by_class": shared.by_class(),
    }


def _figures(
    prepared: dict[str, Prepared], told: dict[Remedy, dict[str, Told]], threshold: float, remedy: Remedy, seed: int
) -> None:
    with writing(FIGURES) as folder:
        folder.mkdir()
        for name, p in prepared.items():
            title = f"{name.replace('_', ' ')}: {p.manifest['source'].iloc[0]}"
            contact_sheet(p, folder / f"contact_{name}.png", seed=seed, title=title)
            class_histogram(p, folder / f"classes_{name}.png", title=title)
        shortcut_bars(told, folder / "shortcut.png", threshold=threshold, chosen=remedy)


def _metrics(
    prepared: dict[str, Prepared], shared: Overlap, told: dict[Remedy, dict[str, Told]]
) -> dict[str, float | None]:
    figures: dict[str, float | None] = {
        "overlap_exact": int(shared.exact.sum()),
        "overlap_near": int(shared.near.sum()),
    }
    for name, p in prepared.items():
        figures[f"{name}_images"] = len(p.manifest)
        figures[f"{name}_quarantined"] = len(p.cleaned.quarantined)
    for remedy, found in told.items():
        for region, t in found.items():
            figures[f"shortcut_{remedy}_{region}_gain"] = t.gain
    return figures


def _say(context: Context, prepared: dict[str, Prepared], shared: Overlap, result: GateResult) -> None:
    for name, p in prepared.items():
        reasons = Counter(q.reason for q in p.cleaned.quarantined)
        dropped = ", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "nothing"
        context.say(f"{name}: {len(p.manifest)} images, {len(p.classes)} classes; quarantined: {dropped}")
    context.say(
        f"of the student's images the teacher's training data hold {int(shared.exact.sum())} exactly "
        f"and {int(shared.near.sum())} as near copies"
    )
    for check in result.checks:
        if check.status != "passed":
            context.say(check.sentence())
    context.say(f"data gate: {result.verdict}")


if __name__ == "__main__":
    main("data", data)
